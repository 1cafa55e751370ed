//! Fuzz targets of Postmark's answers.

use super::reply::{read_receipt, read_server};
use crate::fuzz::check::{answer, check_asked, check_sent, email};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    check_sent(
        answer.status,
        read_receipt(
            &answer,
            &email(&["parent@example.com", "archive@clinic.example"]),
        ),
    );
    check_asked(read_server(&answer));
}
