//! Whether an answer to a generated request is what the document and the code say.

use std::{cell::RefCell, collections::BTreeMap};

use comms_core::json as strict_json;
use comms_tests::{
    ApiResponse, CLINIC,
    contract::{Contract, Direction, Operation},
};
use serde_json::{Value, json};

use super::{
    super::{
        Request,
        requests::{Body, PLANTED, without_nulls},
        rules::{Rule, rules},
        text,
    },
    CEILINGS, Caller, days_fit,
};

/// What is known of a request before it is sent.
pub(super) struct Judge<'c> {
    pub(super) contract: &'c Contract,
    pub(super) operation: &'c Operation,
    pub(super) rules: Vec<Rule>,
    /// How often something was answered.
    pub(super) statuses: RefCell<BTreeMap<u16, u32>>,
    /// How often a rule was the reason for a refusal of what the schemas allow.
    pub(super) refusals: RefCell<BTreeMap<String, u32>>,
}

impl<'c> Judge<'c> {
    pub(super) fn new(contract: &'c Contract, operation: &'c Operation) -> Self {
        let rules = operation
            .bodies()
            .flat_map(|(_, body)| rules(contract, &body["schema"]))
            .collect();
        Self {
            contract,
            operation,
            rules,
            statuses: RefCell::default(),
            refusals: RefCell::default(),
        }
    }

    fn parameters_are_valid(&self, request: &Request) -> bool {
        days_fit(request)
            && self.operation.parameters.iter().all(|parameter| {
                let name = text(&parameter["name"]);
                let given = request
                    .path
                    .iter()
                    .chain(&request.query)
                    .chain(&request.headers);
                let mut given = given.filter(|(given, _)| *given == name);
                given.all(|(_, value)| {
                    let schema = self.contract.resolved(&parameter["schema"]);
                    let value = match schema["type"].as_str() {
                        Some("integer") => value
                            .parse::<u64>()
                            .map_or_else(|_| json!(value), Value::from),
                        Some("boolean") => value
                            .parse::<bool>()
                            .map_or_else(|_| json!(value), Value::from),
                        _ => json!(value),
                    };
                    self.contract
                        .validator(&schema, Direction::Request)
                        .is_valid(&value)
                })
            })
    }

    /// The body as it is read, and whether the document allows it; an error where it is no JSON.
    pub(super) fn body(&self, request: &Request) -> Result<(Value, bool), ()> {
        let Some((_, said)) = self.operation.bodies().next() else {
            return Ok((Value::Null, true));
        };
        let text = match &request.body {
            Body::None => return Ok((Value::Null, true)),
            Body::Json(value) => value.to_string().into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
        };
        let body = strict_json::parse(&text).map_err(drop)?;
        if !body.is_object() {
            return Err(());
        }
        let body = without_nulls(self.contract, &body, &said["schema"]);
        let is_valid = self
            .contract
            .validator(&said["schema"], Direction::Request)
            .is_valid(&body);
        Ok((body, is_valid))
    }

    pub(super) fn judge(
        &self,
        caller: &Caller,
        request: &Request,
        answer: &ApiResponse,
    ) -> Result<(), String> {
        *self.statuses.borrow_mut().entry(answer.status).or_default() += 1;
        self.contract.check(self.operation, answer)?;
        let fail = |what: &str| Err(format!("{what}: {}", answer.text));
        let status = answer.status;
        let body = self.body(request);
        let sends = self.operation.object["operationId"] == "postCommunication";
        let done = (200..400).contains(&status);
        if status >= 500 && !done {
            return fail("a 5xx");
        }
        if answer.text.contains(PLANTED) {
            return fail("a secret in an answer");
        }
        let in_path = request.path.iter().find(|(name, _)| name == "clinicId");
        let clinic = match (in_path, &body) {
            (Some((_, clinic)), _) => Some(clinic.as_str()),
            (None, Ok((body, _))) if sends => body["metadata"]["clinicId"].as_str(),
            (None, _) => Some(CLINIC),
        };
        let permitted = caller.may(self.operation, clinic.filter(|clinic| *clinic != "_global"));
        if done && !permitted {
            return fail("done for somebody who may not");
        }
        let (parameters, json, valid) = (
            self.parameters_are_valid(request),
            body.is_ok(),
            matches!(body, Ok((_, true))),
        );
        // Only an operation that says so looks at it.
        // Every body may be refused for its encoding; a 415 of the operation's own is for the content type.
        let own = &self.operation.object["responses"]["415"];
        let looks = !own["headers"]["Accept-Patch"].is_null();
        let given = request.content_type.split(';').next().unwrap_or_default();
        let typed = !looks || self.operation.bodies().any(|(known, _)| known == given);
        if done && !(parameters && valid && typed) {
            return fail("accepted, although the document does not allow it");
        }
        let nowhere = status == 404 && !parameters;
        match status {
            400 if json && parameters => fail("refused as malformed, which it is not"),
            415 if typed => fail("refused for its content type"),
            // The platform's ceilings, in the document of somebody who may change all else.
            403 if answer.pointers() == [CEILINGS] => Ok(()),
            // `critical` is for the platform, and for clinics that it allowed it to; an example has it.
            403 if answer.pointers() == ["/priority"] => Ok(()),
            403 if permitted && !nowhere => fail("refused somebody who may"),
            // Nobody guesses a clinic for somebody who acts for one only.
            422 if !permitted && answer.pointers() == ["/metadata/clinicId"] => Ok(()),
            422 if parameters && valid => {
                for error in answer.body["errors"].as_array().into_iter().flatten() {
                    let Some(rule) = self.rules.iter().find(|rule| rule.explains(error)) else {
                        return fail("refused, although the document allows it");
                    };
                    *self
                        .refusals
                        .borrow_mut()
                        .entry(rule.name().to_owned())
                        .or_default() += 1;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
