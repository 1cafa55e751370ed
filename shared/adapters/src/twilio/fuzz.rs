//! Fuzz targets of Twilio's answers.

use super::reply::{is_not_found, may_send, receipt};
use crate::fuzz::check::{answer, check_asked, check_sent};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    check_sent(answer.status, receipt(&answer));
    check_asked(may_send(&answer));
    check_asked(is_not_found(&answer));
}
