//! Fuzz targets of ZeptoMail's answers.

use super::reply::{read_check, read_receipt};
use crate::fuzz::check::{answer, check_asked, check_sent};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    check_sent(answer.status, read_receipt(&answer));
    check_asked(read_check(&answer));
}
