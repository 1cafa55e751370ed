//! A socket with a byte budget: the limit on what a peer can make us parse.
//!
//! It stands below TLS, so that bytes that never become data count as well: records without content, session tickets,
//! handshake messages, chunk extensions, informational responses. Whoever uses the socket sets the budget for what it
//! does next ([`Budget::allow`]). When the budget is used up, reading fails with [`BudgetExceeded`], and the connection is
//! of no further use.
//!
//! A parser that loops until there is nothing more to read never returns while a peer sends fast enough. Therefore a task
//! gets at most [`SLICE`] × [`SLICES`] bytes before [`Metered`] makes it wait for all other tasks, timers and sockets to have
//! had their turn.

use std::{
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use socket2::SockRef;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take},
    net::TcpStream,
};

/// Bytes of one read: a TLS record's worth (RFC 8446 section 5.1).
const SLICE: usize = 16 * 1024;
/// Reads before the task yields.
const SLICES: usize = 2;
/// Bytes from the server for one TLS handshake. Certificate chains have 2 to 8 KB.
pub(crate) const MAX_HANDSHAKE_BYTES: usize = 128 * 1024;

/// The peer sent more than the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer sent more bytes than were allowed")]
pub(crate) struct BudgetExceeded;

impl BudgetExceeded {
    /// Whether an error of a connection says this.
    pub(crate) fn is_in(error: &io::Error) -> bool {
        error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

/// How many more bytes a peer may send. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    left: AtomicUsize,
    /// Whether the connection was idle, so that the socket is asked for its end before it is read.
    was_idle: AtomicBool,
    /// Whether reading does not wait for the turn of others.
    is_unpaced: AtomicBool,
}

/// While it lives, "nothing to read" means just that, and not that other tasks have their turn.
pub(crate) struct Unpaced<'a>(&'a Budget);

impl Drop for Unpaced<'_> {
    fn drop(&mut self) {
        self.0.0.is_unpaced.store(false, Ordering::Relaxed);
    }
}

impl Budget {
    /// Allows `bytes` from here on, whatever was left.
    pub(crate) fn allow(&self, bytes: usize) {
        self.0.left.store(bytes, Ordering::Relaxed);
    }

    /// Allows `bytes` more.
    pub(crate) fn extend(&self, bytes: usize) {
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Allows nothing more.
    pub(crate) fn exhaust(&self) {
        self.allow(0);
    }

    /// Makes the next read find out whether the peer has ended the connection, or said something, while it was idle.
    /// After a freeze of the process the runtime may not know yet what the socket knows.
    pub(crate) fn expect_silence(&self) {
        self.0.was_idle.store(true, Ordering::Relaxed);
    }

    /// Lets the next reads go on without a pause, for whoever has to know what has arrived by now. The budget still holds.
    pub(crate) fn unpaced(&self) -> Unpaced<'_> {
        self.0.is_unpaced.store(true, Ordering::Relaxed);
        Unpaced(self)
    }

    fn left(&self) -> usize {
        self.0.left.load(Ordering::Relaxed)
    }

    fn spend(&self, bytes: usize) {
        // Only the task that reads changes it, except for `exhaust` between two reads.
        let left = self.left().saturating_sub(bytes);
        self.allow(left);
    }
}

/// A TCP connection that reads by its budget.
pub(crate) struct Metered {
    socket: Take<TcpStream>,
    budget: Budget,
    /// Reads since the task last had to wait.
    reads: usize,
    pause: Option<Arc<Pause>>,
}

impl Metered {
    pub(crate) fn new(socket: TcpStream, allowed: usize) -> Self {
        let budget = Budget::default();
        budget.allow(allowed);
        Self {
            socket: socket.take(0),
            budget,
            reads: 0,
            pause: None,
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Whether the peer has said nothing, and not ended the connection, by what the socket knows.
    pub(crate) fn is_silent(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        SockRef::from(self.socket())
            .peek(&mut byte)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for the turn of everybody else, once the task has read enough.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.budget.0.is_unpaced.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if let Some(pause) = &self.pause {
            if pause.poll_over(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
            self.reads = 0;
        }
        if self.reads < SLICES {
            return Poll::Ready(());
        }
        let pause = Pause::begin();
        // It may be over at once outside of a runtime.
        let turn = pause.poll_over(context);
        self.pause = Some(pause);
        turn
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metered(…)")
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.budget.0.was_idle.swap(false, Ordering::Relaxed) && !this.is_silent() {
            return Poll::Ready(Ok(()));
        }
        let left = this.budget.left();
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(BudgetExceeded)));
        }
        if this.poll_turn(context).is_pending() {
            return Poll::Pending;
        }
        let filled = buffer.filled().len();
        this.socket.set_limit(left.min(SLICE) as u64);
        let read = Pin::new(&mut this.socket).poll_read(context, buffer);
        match &read {
            // There was nothing to read: the task waits anyway.
            Poll::Pending => this.reads = 0,
            Poll::Ready(_) => {
                this.reads += 1;
                this.budget.spend(buffer.filled().len() - filled);
            }
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket().is_write_vectored()
    }
}

/// A turn of all other tasks. The runtime ends it: it keeps the waker until it has run what is ready and looked at timers
/// and sockets. A task that wakes itself would come before those.
#[derive(Debug, Default)]
struct Pause {
    is_over: AtomicBool,
    task: AtomicWaker,
}

impl Pause {
    fn begin() -> Arc<Self> {
        let pause = Arc::new(Self::default());
        let waker = Waker::from(pause.clone());
        // Polled once: that hands the waker to the runtime.
        let turn = pin!(tokio::task::yield_now());
        let _ = turn.poll(&mut Context::from_waker(&waker));
        pause
    }

    fn poll_over(&self, context: &mut Context<'_>) -> Poll<()> {
        self.task.register(context.waker());
        if self.is_over.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Wake for Pause {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests;
