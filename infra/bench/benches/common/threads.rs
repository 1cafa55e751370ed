//! The threads of a benchmark whose function and servers share a process.

/// Runs `work` on this thread. Two further threads run what it spawns.
pub(crate) fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}
