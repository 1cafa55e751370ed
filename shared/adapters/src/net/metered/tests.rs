use std::{cell::Cell, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;

/// Both ends of a connection.
async fn connection(allowed: usize) -> (Metered, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (Metered::new(client.unwrap(), allowed), server.unwrap().0)
}

/// A peer that sends on a thread of its own, as fast as it can.
fn flood(server: TcpStream) {
    use std::io::Write;
    let mut server = server.into_std().unwrap();
    server.set_nonblocking(false).unwrap();
    std::thread::spawn(move || while server.write_all(&[b'x'; 8_192]).is_ok() {});
}

#[tokio::test]
async fn more_bytes_than_the_budget_end_the_connection() {
    let (mut metered, mut server) = connection(5).await;
    server.write_all(b"12345678").await.unwrap();
    let mut read = Vec::new();
    let error = metered.read_to_end(&mut read).await.unwrap_err();
    assert!(BudgetExceeded::is_in(&error), "{error:?}");
    assert_eq!(read, b"12345");

    metered.budget().allow(1);
    metered.budget().extend(1);
    let error = metered.read_to_end(&mut read).await.unwrap_err();
    assert!(BudgetExceeded::is_in(&error), "{error:?}");
    assert_eq!(read, b"1234567");
}

#[tokio::test]
async fn bytes_within_the_budget_are_read_to_their_end() {
    let (mut metered, mut server) = connection(6).await;
    server.write_all(b"12345").await.unwrap();
    drop(server);
    let mut read = Vec::new();
    assert_eq!(metered.read_to_end(&mut read).await.unwrap(), 5);
}

#[tokio::test]
async fn one_poll_reads_two_slices_however_much_there_is() {
    let (mut metered, server) = connection(usize::MAX).await;
    flood(server);
    let mut buffer = vec![0; 65_536];
    metered.read_exact(&mut buffer).await.unwrap();
    // As a parser does that goes on until there is nothing more.
    let most = std::future::poll_fn(|context| {
        let mut most = 0;
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut metered).poll_read(context, &mut buffer) {
                Poll::Ready(read) => {
                    read.unwrap();
                    most += buffer.filled().len();
                    assert!(most <= SLICE * SLICES, "{most}");
                }
                Poll::Pending if most == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(most),
            }
        }
    });
    assert!(most.await > 0);
}

#[tokio::test]
async fn timers_run_while_a_peer_floods() {
    let (mut metered, server) = connection(usize::MAX).await;
    flood(server);
    let is_over = Cell::new(false);
    let reading = async {
        let mut buffer = vec![0; 65_536];
        while !is_over.get() {
            metered.read_exact(&mut buffer).await.unwrap();
        }
    };
    let timing = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        is_over.set(true);
    };
    tokio::join!(reading, timing);
}

#[tokio::test]
async fn an_idle_connection_with_something_to_say_is_at_its_end() {
    let (mut metered, mut server) = connection(100).await;
    metered.budget().expect_silence();
    server.write_all(b"1").await.unwrap();
    // Loopback delivers before the write returns; the runtime has not heard of it.
    assert_eq!(metered.read(&mut [0; 10]).await.unwrap(), 0);
    // It is asked once.
    assert_eq!(metered.read(&mut [0; 10]).await.unwrap(), 1);
}

#[tokio::test]
async fn what_has_arrived_is_read_at_once_where_nobody_else_has_a_turn() {
    let (mut metered, server) = connection(usize::MAX).await;
    flood(server);
    let mut buffer = vec![0; SLICE];
    std::future::poll_fn(|context| {
        // As long as the one who floods is slower.
        while Pin::new(&mut metered)
            .poll_read(context, &mut ReadBuf::new(&mut buffer))
            .is_ready()
        {}
        if metered.pause.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    assert!(metered.read(&mut buffer).now_or_never().is_none());
    let budget = metered.budget().clone();
    let _unpaced = budget.unpaced();
    // All that had arrived may have been read.
    metered.socket.get_ref().peek(&mut [0]).await.unwrap();
    assert!(metered.read(&mut buffer).now_or_never().is_some());
}
