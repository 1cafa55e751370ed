//! Fuzz targets of what providers answer: see [`comms_testkit::fuzz`].

pub(crate) mod check;

// A JSON value takes up to 72 bytes for two or three of its text, and a vector of them twice that while it grows.
comms_testkit::fuzz_targets! {
    /// An SMTP server's replies. The target keeps two lists of all replies, the shortest of which has five bytes: what one
    /// reply takes of the reader itself, the target checks.
    smtp_replies = crate::smtp::fuzz::replies, 100_000 + 64 * length;
    /// An SMTP server's capabilities.
    smtp_offers = crate::smtp::fuzz::offers, 10_000 + 8 * length;
    /// A whole SMTP transaction. The target keeps a list of turns, the shortest of which is an empty line.
    smtp_transactions = crate::smtp::fuzz::transactions, 100_000 + 32 * length;
    /// Answers of `SendGrid`.
    sendgrid_answers = crate::sendgrid::fuzz::answers, 20_000 + 200 * length;
    /// Answers of Postmark.
    postmark_answers = crate::postmark::fuzz::answers, 20_000 + 200 * length;
    /// Answers of `ZeptoMail`.
    zeptomail_answers = crate::zeptomail::fuzz::answers, 20_000 + 200 * length;
    /// Answers of Meta.
    meta_answers = crate::meta::fuzz::answers, 20_000 + 200 * length;
    /// Answers of Twilio.
    twilio_answers = crate::twilio::fuzz::answers, 20_000 + 200 * length;
    /// Answers of SES.
    ses_answers = crate::ses::fuzz::answers, 20_000 + 200 * length;
}
