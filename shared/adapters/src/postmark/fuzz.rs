//! Fuzz targets of Postmark's answers.

use super::reply::{read_receipt, read_server};
use crate::{
    fixtures::full_email,
    fuzz::check::{answer, check_asked, check_sent},
};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    check_sent(answer.status, read_receipt(&answer, &full_email()));
    check_asked(read_server(&answer));
}
