//! Fuzz targets of Meta's answers.

use super::reply::{receipt, refusal};
use crate::fuzz::check::{answer, check_asked, check_sent};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    check_sent(answer.status, receipt(&answer));
    check_asked::<()>(Err(refusal(&answer)));
}
