//! Sends that are given up midway.

use super::*;

/// A future that is polled so often and not more.
struct Polled<F> {
    inner: F,
    left: u32,
}

impl<F: Future + Unpin> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let polled = Pin::new(&mut self.inner).poll(context).map(Some);
        if polled.is_pending() && self.left == 0 {
            return Poll::Ready(None);
        }
        polled
    }
}

/// Lets go of a send at each of its awaits in turn, on new and on kept connections: neither the slot nor
/// the place is lost, and nothing of a conversation that was cut short is used again.
#[tokio::test]
async fn a_send_that_is_dropped_at_any_await_gives_back_what_it_held() {
    let process = Process::new(1);
    let clinic = process.clinic(1, |server| server).await;
    for keep in [false, true] {
        for polls in 1.. {
            if keep {
                clinic.send().await.unwrap();
            } else {
                clinic.server.close_idle_connections().await;
            }
            let dropped = message(2);
            let inner = clinic.provider.send(&dropped, Deadline::after(TIME));
            let sent = Polled { inner, left: polls }.await;
            process.assert_nothing_is_lost();
            if let Some(result) = sent {
                result.unwrap();
                assert!(polls > 2, "{polls}");
                break;
            }
        }
    }
    clinic.send().await.unwrap();
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_send_that_is_dropped_while_it_waits_leaves_its_turn_to_the_next() {
    let process = Process::new(1);
    let clinic = process
        .clinic(1, |server| server.on(Stage::Body, Action::Hang))
        .await;
    let other = process.clinic(1, |server| server).await;
    let (first, second, third) = (message(1), message(2), message(3));
    let mut hanging = clinic.provider.send(&first, Deadline::after(TIME));
    tokio::select! {
        _ = &mut hanging => panic!("the server hangs"),
        () = clinic.server.wait_for_stage(Stage::Body, 1) => {}
    }
    // One waits for the clinic's only slot, one at the ceiling.
    for provider in [&clinic.provider, &other.provider] {
        let inner = provider.send(&second, Deadline::after(TIME));
        let sent = Polled { inner, left: 1 }.await;
        assert!(sent.is_none());
        assert_eq!(process.statistics().waiting, 0);
    }
    let mut waiting = pin!(other.provider.send(&third, Deadline::after(TIME)));
    let is_waiting = Polled {
        inner: &mut waiting,
        left: 1,
    };
    assert!(is_waiting.await.is_none());
    assert_eq!(process.statistics().waiting, 1);
    drop(hanging);
    waiting.await.unwrap();
    clinic.send().await.unwrap();
    assert_eq!((clinic.sent(), other.sent()), (1, 1));
    process.assert_nothing_is_lost();
}
