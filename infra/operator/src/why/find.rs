//! Which request an id means.
//!
//! A request is read by its id. A key, and SQS's id of a message without one, give the id by the keyed hash. To a
//! delivery's id no index leads: for that alone the table is walked through, and the walk is announced and bounded.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use comms_core::{
    DeliveryId, IdempotencyKey, RequestId, Tenant, dead_letter::is_message_id, structured_field,
};
use comms_delivery::ledger::RequestTrace;
use serde::Serialize;

use crate::{
    AnyError,
    console::note,
    dead_letters::{self, DeadLetterQueue, FoundLetter},
    pace::Pace,
    progress::Progress,
    stop::Stop,
    tables::Stack,
};

/// Dead letters that are looked at, at most.
const MAX_LETTERS: u64 = 10_000;

/// What is asked for.
pub(super) struct Question {
    pub(super) id: String,
    /// Whose it is. A key is a clinic's; without a clinic it is one of the platform's account.
    pub(super) clinic: Option<Tenant>,
    /// The dead letters; `None` where they were not looked at.
    pub(super) letters: Option<Vec<FoundLetter>>,
    /// Pages of the deliveries table that are read for a delivery id, at most.
    pub(super) pages: u32,
    /// Pages a second, at most.
    pub(super) rate: u32,
}

/// By what the request was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum FoundBy {
    RequestId,
    DeliveryId,
    /// The key, or SQS's id of a producer's message without one.
    IdempotencyKey,
    /// A message on the dead-letter queue.
    DeadLetter,
}

/// What was found.
pub(super) struct Found {
    pub(super) by: FoundBy,
    /// `None` of a dead letter that was never accepted.
    pub(super) request: Option<(RequestId, RequestTrace)>,
    /// The delivery that was asked for, where it was one.
    pub(super) delivery: Option<DeliveryId>,
    /// Its messages on the dead-letter queue; `None` where that was not looked at.
    pub(super) letters: Option<Vec<FoundLetter>>,
}

/// Why nothing was found, in the order in which it was looked for.
pub(super) struct NotFound(pub(super) Vec<String>);

/// Looks for what the question means.
pub(super) async fn find(
    stack: &Stack,
    question: &Question,
) -> Result<Result<Found, NotFound>, AnyError> {
    let key = IdempotencyKey::parse(&question.id).map_err(
        |_| "ID must be a request id, a delivery id, an idempotency key or an id of SQS",
    )?;
    let letters = question.letters.clone();
    let mut looked_for = Vec::new();
    let id = RequestId::parse(&question.id).ok();
    if let Some(id) = id.clone() {
        if let Some(trace) = trace(stack, question, &id).await? {
            return Ok(Ok(found(
                stack,
                FoundBy::RequestId,
                Some((id, trace)),
                letters,
            )
            .await?));
        }
        looked_for.push("no request has it as its id".to_owned());
    }
    if let Some(request) = by_key(stack, question, &key, &mut looked_for).await? {
        return Ok(Ok(found(
            stack,
            FoundBy::IdempotencyKey,
            Some(request),
            letters,
        )
        .await?));
    }
    if let Some(letters) = &letters {
        if let Some(found) = by_letter(stack, question, letters).await? {
            return Ok(Ok(found));
        }
        looked_for.push("no message on the dead-letter queue has it as its id".to_owned());
    } else {
        looked_for.push("the dead letters were not looked at: give --dead-letter-queue".to_owned());
    }
    if id.is_some() {
        let wanted = DeliveryId::parse(&question.id)?;
        if let Some(request) = by_delivery(stack, question, &wanted, &mut looked_for).await? {
            let mut found = found(stack, FoundBy::DeliveryId, Some(request), letters).await?;
            found.delivery = Some(wanted);
            return Ok(Ok(found));
        }
    } else if is_message_id(&question.id) {
        looked_for.push(
            "SQS's id of a message that came by HTTP is in the worker's log alone: filter sqsMessageId there for the requestId"
                .to_owned(),
        );
        if let Some(starts) = stack.ledger.unfinished_starts(&question.id).await? {
            looked_for.push(format!(
                "the worker has begun such a message more than once, {starts} times without an end"
            ));
        }
    }
    Ok(Err(NotFound(looked_for)))
}

/// The request with this id, if it is the asked clinic's.
async fn trace(
    stack: &Stack,
    question: &Question,
    id: &RequestId,
) -> Result<Option<RequestTrace>, AnyError> {
    let trace = stack.ledger.trace(id, stack.clock.now()).await?;
    let clinic = question.clinic.as_ref();
    Ok(trace.filter(|trace| clinic.is_none_or(|clinic| *clinic == trace.request.tenant)))
}

async fn by_key(
    stack: &Stack,
    question: &Question,
    key: &IdempotencyKey,
    looked_for: &mut Vec<String>,
) -> Result<Option<(RequestId, RequestTrace)>, AnyError> {
    let Some(hash) = stack.hash_key().await? else {
        looked_for
            .push("the settings table has no key of the hashes: nothing was sent yet".to_owned());
        return Ok(None);
    };
    let tenant = question.clinic.clone().unwrap_or(Tenant::Global);
    // `"abc"` in an `Idempotency-Key` header is the key `abc`.
    let of_header = structured_field::parse_string(key.as_str());
    let of_header = of_header.and_then(|text| IdempotencyKey::parse(&text).ok());
    for key in [Some(key), of_header.as_ref()].into_iter().flatten() {
        let id = RequestId::derive(hash, &tenant, key);
        if let Some(trace) = trace(stack, question, &id).await? {
            return Ok(Some((id, trace)));
        }
    }
    looked_for.push(match &question.clinic {
        Some(clinic) => format!("{clinic} has no request with it as its key or as its message's id"),
        None => "no request without a clinic has it as its key or as its message's id: for one of a clinic, give --clinic"
            .to_owned(),
    });
    Ok(None)
}

async fn by_letter(
    stack: &Stack,
    question: &Question,
    letters: &[FoundLetter],
) -> Result<Option<Found>, AnyError> {
    let is_meant = |letter: &FoundLetter| {
        letter.message_id == question.id || letter.source_message_id == question.id
    };
    let Some(letter) = letters.iter().find(|letter| is_meant(letter)) else {
        return Ok(None);
    };
    let hash = stack.hash_key().await?;
    let id = hash.and_then(|hash| letter.request_id(hash));
    let request = match id {
        Some(id) => trace(stack, question, &id).await?.map(|trace| (id, trace)),
        None => None,
    };
    if request.is_some() {
        return Ok(Some(
            found(stack, FoundBy::DeadLetter, request, Some(letters.to_vec())).await?,
        ));
    }
    Ok(Some(Found {
        by: FoundBy::DeadLetter,
        request: None,
        delivery: None,
        letters: Some(
            letters
                .iter()
                .filter(|letter| is_meant(letter))
                .cloned()
                .collect(),
        ),
    }))
}

/// What was found, with those of `letters` that are of it.
async fn found(
    stack: &Stack,
    by: FoundBy,
    request: Option<(RequestId, RequestTrace)>,
    letters: Option<Vec<FoundLetter>>,
) -> Result<Found, AnyError> {
    let letters = match letters {
        Some(letters) => {
            let hash = stack.hash_key().await?;
            let is_of_it = |letter: &FoundLetter| {
                let id = hash.and_then(|hash| letter.request_id(hash));
                id.is_some() && id.as_ref() == request.as_ref().map(|(id, _)| id)
            };
            Some(letters.into_iter().filter(is_of_it).collect())
        }
        None => None,
    };
    Ok(Found {
        by,
        request,
        delivery: None,
        letters,
    })
}

/// All dead letters. They are received and made visible again, after Ctrl-C too, when it gives `None`: this future must not
/// be dropped before its end.
pub(super) async fn letters_of(
    stack: &Stack,
    url: &str,
) -> Result<Option<Vec<FoundLetter>>, AnyError> {
    let plan = dead_letters::Plan {
        queue: DeadLetterQueue::new(&stack.sdk, url, Duration::from_secs(1)),
        filter: dead_letters::Filter::default(),
        work: dead_letters::Work::List,
        limit: MAX_LETTERS,
        rate: 1,
        clock: Arc::clone(&stack.clock),
    };
    let mut report = dead_letters::Report::default();
    let mut progress = Progress::new("looking", "dead letters", std::io::stderr().is_terminal());
    let walked = dead_letters::run(
        &plan,
        &mut report,
        &Stop::at_interrupt(),
        &mut |done, total| {
            progress.at(done, total, "");
        },
    )
    .await;
    progress.finish();
    walked?;
    if report.hidden > 0 {
        note(format_args!(
            "{} dead letters could not be made visible again, and are so by themselves after five minutes",
            report.hidden
        ));
    }
    if report.limited {
        note(format_args!(
            "only the first {MAX_LETTERS} dead letters were looked at"
        ));
    }
    Ok((!report.stopped).then_some(report.letters))
}

async fn by_delivery(
    stack: &Stack,
    question: &Question,
    wanted: &DeliveryId,
    looked_for: &mut Vec<String>,
) -> Result<Option<(RequestId, RequestTrace)>, AnyError> {
    if question.pages == 0 {
        looked_for.push("deliveries were not looked at: --pages is 0".to_owned());
        return Ok(None);
    }
    note(format_args!(
        "no index leads from a delivery to its request: reading the deliveries table for it, at most {} pages of 1 MB (--pages)",
        question.pages
    ));
    let mut progress = Progress::new("looking", "pages", std::io::stderr().is_terminal());
    let mut turns = Pace::per_second(question.rate);
    let (mut from, mut read) = (None, 0);
    let mut is_whole = false;
    let request = loop {
        turns.wait().await;
        let page = stack.ledger.walk(from).await?;
        read += 1;
        progress.at(u64::from(read), u64::from(question.pages), "");
        let mut requests = page.requests.into_iter();
        if let Some(found) = requests.find(|request| request.has_delivery(wanted)) {
            break Some(found.id);
        }
        from = page.next;
        is_whole = from.is_none();
        if is_whole || read == question.pages {
            break None;
        }
    };
    progress.finish();
    if let Some(id) = request {
        return Ok(trace(stack, question, &id).await?.map(|trace| (id, trace)));
    }
    looked_for.push(if is_whole {
        "no delivery of the whole deliveries table has it as its id".to_owned()
    } else {
        format!(
            "no delivery of the first {read} pages of the deliveries table has it as its id: give more --pages, or look for \
             deliveryId in the logs"
        )
    });
    Ok(None)
}
