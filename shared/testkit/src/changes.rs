//! A server's state changes until a test sees in it what it waits for.

use std::time::Duration;

use tokio::{sync::watch, time::error::Elapsed};

/// How long a test waits for something that a server should see before it fails.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What `found` finds, which is asked again with every `signal`.
///
/// # Errors
/// When it finds nothing within [`WAIT_TIMEOUT`].
pub(crate) async fn wait_until<T>(
    signal: &watch::Sender<()>,
    mut found: impl FnMut() -> Option<T>,
) -> Result<T, Elapsed> {
    let mut changes = signal.subscribe();
    let waiting = async {
        loop {
            changes.mark_unchanged();
            if let Some(result) = found() {
                return result;
            }
            // Its sender is borrowed, so that this cannot fail.
            let _ = changes.changed().await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, waiting).await
}
