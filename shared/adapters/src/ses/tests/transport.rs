//! Failures below SES's replies.

use super::*;

#[tokio::test(start_paused = true)]
async fn only_what_failed_before_the_body_was_asked_for_may_be_sent_again() {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable};
    for (reply, disposition, kind) in [
        (Reply::FailsBefore(io_error), Transient, Unavailable),
        (Reply::FailsBefore(ended), Transient, Unavailable),
        (Reply::FailsBefore(timed_out), Transient, Timeout),
        (Reply::FailsBefore(tls_refused), Transient, Unavailable),
        (
            Reply::FailsBefore(bad_certificate),
            ProviderDown,
            Unauthenticated,
        ),
        (Reply::HangsBefore, Transient, Timeout),
        (Reply::FailsAfter(io_error), Ambiguous, Unavailable),
        (Reply::FailsAfter(ended), Ambiguous, Unavailable),
        (Reply::FailsAfter(timed_out), Ambiguous, Timeout),
        (Reply::FailsAfter(bad_certificate), Ambiguous, Unavailable),
        (Reply::FailsAfter(cut_short), Ambiguous, Unavailable),
        (Reply::HangsAfter, Ambiguous, Timeout),
    ] {
        for message in [
            message(|_| {}),
            message(|content| content.attachments = vec![attachment(100_000)]),
        ] {
            let double = Double::answering([reply.clone()]);
            let error = sent(&double.provider(keys()), &message).await.unwrap_err();
            assert_eq!(
                (error.disposition, error.kind),
                (disposition, kind),
                "{error}"
            );
            assert!(double.seen().len() <= 1, "it was sent again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_takes_ten_seconds_at_most_and_never_longer_than_the_deadline() {
    for (deadline, expected) in [(60, 10), (4, 4)] {
        let double = Double::answering([Reply::HangsAfter]);
        let provider = double.provider(keys());
        let started = tokio::time::Instant::now();
        let deadline = Deadline::after(Duration::from_secs(deadline));
        provider.send(&message(|_| {}), deadline).await.unwrap_err();
        assert_eq!(started.elapsed().as_secs(), expected);
    }
}
