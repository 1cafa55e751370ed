//! Fuzz targets of SendGrid's answers.

use comms_core::DeliveryId;

use super::reply::{read_receipt, read_scopes};
use crate::fuzz::check::{answer, check_asked, check_sent};

pub(crate) fn answers(input: &[u8]) {
    let answer = answer(input);
    let Ok(delivery) = DeliveryId::parse("0123456789abcdef0123456789abcdef") else {
        return;
    };
    for sandbox in [false, true] {
        check_sent(answer.status, read_receipt(&answer, &delivery, sandbox));
    }
    check_asked(read_scopes(&answer));
}
