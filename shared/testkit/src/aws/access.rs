//! What IAM is asked before a service does what a call wants: who, which action, on what, under which circumstances.
//!
//! An operation and the actions that it takes are not the same: a transaction is permitted by what it is made of, a
//! batch by the single operation. Actions, resources and condition keys are those of the Service Authorization
//! Reference (<https://docs.aws.amazon.com/service-authorization/latest/reference/>). An operation that is not known
//! here is asked for under its own name and on everything, which no narrow policy allows: whoever meets that adds the
//! operation here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::ACCOUNT;

/// One question to IAM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The id of the access key that signed the call.
    pub access_key_id: String,
    /// The action, such as `dynamodb:GetItem`.
    pub action: String,
    /// The ARN of what it is done to; `*` where the action knows no resources.
    pub resource: String,
    /// The values of condition keys, such as `dynamodb:LeadingKeys`. A key without values is not there.
    pub context: BTreeMap<String, BTreeSet<String>>,
}

/// A call, as far as IAM is interested in it.
pub(super) struct Call<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) operation: &'a str,
    /// The path of the URL, where some services name the resource.
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// Everything that IAM is asked because of this call.
    pub(super) fn accesses(&self) -> Vec<Access> {
        let body = serde_json::from_slice(self.body).unwrap_or(Value::Null);
        match (self.service, self.operation) {
            ("dynamodb", "TransactWriteItems") => self.transaction(&body),
            ("dynamodb", "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" | "Query") => {
                vec![self.item(self.operation, &body)]
            }
            ("kms", "GenerateDataKey" | "Decrypt") => vec![self.data_key(&body)],
            ("sqs", operation) => vec![self.queue(operation, &body)],
            ("ses", "SendEmail") => self.email(&body),
            ("ses", "GetEmailIdentity") => {
                let identity = self.path.rsplit('/').next().unwrap_or_default();
                let identity = self.arn("ses", &format!("identity/{identity}"));
                vec![self.access("GetEmailIdentity", &identity)]
            }
            ("sts", "AssumeRole") => {
                let role = form(self.body).remove("RoleArn").unwrap_or_default();
                let account = role.split(':').nth(4).unwrap_or_default().to_owned();
                let mut access = self.access("AssumeRole", &role);
                access
                    .context
                    .insert("aws:ResourceAccount".to_owned(), [account].into());
                vec![access]
            }
            (_, operation) => vec![self.access(operation, "*")],
        }
    }

    fn access(&self, action: &str, resource: &str) -> Access {
        Access {
            access_key_id: self.access_key_id.to_owned(),
            action: format!("{}:{action}", self.service),
            resource: resource.to_owned(),
            context: BTreeMap::new(),
        }
    }

    fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{ACCOUNT}:{resource}", self.region)
    }

    /// One item, or the items of one partition. The partition key is what `dynamodb:LeadingKeys` is about (`DynamoDB`
    /// developer guide, "Using IAM policy conditions for fine-grained access control").
    fn item(&self, action: &str, request: &Value) -> Access {
        let table = text(&request["TableName"]);
        let resource = match request["IndexName"].as_str() {
            Some(index) => format!("table/{table}/index/{index}"),
            None => format!("table/{table}"),
        };
        let mut access = self.access(action, &self.arn("dynamodb", &resource));
        let key = ["Key", "Item"]
            .into_iter()
            .find_map(|field| request[field]["pk"]["S"].as_str())
            .map_or_else(|| queried_partition(request), |key| Some(key.to_owned()));
        access.put("dynamodb:LeadingKeys", key);
        access
    }

    /// "IAM permissions for `TransactWriteItems`": those of the single operations, and `ConditionCheckItem`.
    fn transaction(&self, request: &Value) -> Vec<Access> {
        let parts = request["TransactItems"].as_array().into_iter().flatten();
        parts
            .filter_map(Value::as_object)
            .flatten()
            .map(|(kind, part)| match kind.as_str() {
                "ConditionCheck" => self.item("ConditionCheckItem", part),
                kind => self.item(&format!("{kind}Item"), part),
            })
            .collect()
    }

    fn data_key(&self, request: &Value) -> Access {
        let key = text(&request["KeyId"]);
        let key = if key.starts_with("arn:") {
            key.to_owned()
        } else {
            // An id or an alias.
            self.arn("kms", key)
        };
        let mut access = self.access(self.operation, &key);
        let context = request["EncryptionContext"].as_object();
        for (name, value) in context.into_iter().flatten() {
            access.put("kms:EncryptionContextKeys", Some(name.clone()));
            let key = format!("kms:EncryptionContext:{name}");
            access.put(&key, Some(text(value).to_owned()));
        }
        access
    }

    /// A batch is permitted as what it is a batch of (SQS developer guide, "Amazon SQS API permissions").
    fn queue(&self, operation: &str, request: &Value) -> Access {
        let name = text(&request["QueueUrl"]).rsplit('/').next();
        let queue = self.arn("sqs", name.unwrap_or_default());
        let action = operation.strip_suffix("Batch").unwrap_or(operation);
        self.access(action, &queue)
    }

    /// `SendEmail` of the API v2 asks for `ses:SendRawEmail` when the message comes in MIME form, on the identity and
    /// on the configuration set if one is named.
    fn email(&self, request: &Value) -> Vec<Access> {
        let from = text(&request["FromEmailAddress"]);
        let from = from.rsplit('<').next().unwrap_or_default();
        let from = from.trim_end_matches('>');
        let mut resources = vec![self.arn("ses", &format!("identity/{from}"))];
        if let Some(set) = request["ConfigurationSetName"].as_str() {
            resources.push(self.arn("ses", &format!("configuration-set/{set}")));
        }
        let action = if request["Content"]["Raw"].is_null() {
            "SendEmail"
        } else {
            "SendRawEmail"
        };
        let tenant = request["TenantName"].as_str();
        resources
            .iter()
            .map(|resource| {
                let mut access = self.access(action, resource);
                access.put("ses:TenantName", tenant.map(str::to_owned));
                access.put("ses:FromAddress", Some(from.to_owned()));
                access
            })
            .collect()
    }
}

impl Access {
    fn put(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            let values = self.context.entry(key.to_owned()).or_default();
            values.insert(value);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The partition of a query: the value that its key condition compares `pk` with.
fn queried_partition(request: &Value) -> Option<String> {
    let condition = request["KeyConditionExpression"].as_str()?;
    let mut words = condition
        .split_whitespace()
        .skip_while(|word| *word != "pk");
    let (Some(_), Some("="), Some(value)) = (words.next(), words.next(), words.next()) else {
        return None;
    };
    let value = request["ExpressionAttributeValues"][value]["S"].as_str()?;
    Some(value.to_owned())
}

/// The fields of a form.
pub(super) fn form(body: &[u8]) -> HashMap<String, String> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `action resource key=values…` of every question.
    fn asked(service: &str, operation: &str, body: &str) -> Vec<String> {
        let call = Call {
            access_key_id: "AKIATEST",
            region: "eu-central-1",
            service,
            operation,
            path: "/v2/email/identities/clinic.example",
            body: body.as_bytes(),
        };
        let shown = |access: Access| {
            let mut words = vec![access.action, access.resource];
            for (key, values) in access.context {
                let values: Vec<_> = values.into_iter().collect();
                words.push(format!("{key}={}", values.join(",")));
            }
            words
                .join(" ")
                .replace("arn:aws:", "")
                .replace(&format!("eu-central-1:{ACCOUNT}"), "")
        };
        call.accesses().into_iter().map(shown).collect()
    }

    #[test]
    fn a_transaction_is_permitted_by_what_it_is_made_of() {
        let item = json!({"pk": {"S": "clinic-1"}, "sk": {"S": "settings"}});
        let transaction = json!({"TransactItems": [
            {"Put": {"TableName": "t", "Item": item}},
            {"Update": {"TableName": "u", "Key": item}},
            {"ConditionCheck": {"TableName": "t", "Key": item}},
        ]});
        assert_eq!(
            asked("dynamodb", "TransactWriteItems", &transaction.to_string()),
            [
                "dynamodb:PutItem dynamodb::table/t dynamodb:LeadingKeys=clinic-1",
                "dynamodb:UpdateItem dynamodb::table/u dynamodb:LeadingKeys=clinic-1",
                "dynamodb:ConditionCheckItem dynamodb::table/t dynamodb:LeadingKeys=clinic-1",
            ]
        );
    }

    #[test]
    fn a_query_is_of_one_partition() {
        let query = json!({"TableName": "t", "KeyConditionExpression": "pk = :p AND sk > :s",
            "ExpressionAttributeValues": {":p": {"S": "r-1"}, ":s": {"S": "x"}}});
        assert_eq!(
            asked("dynamodb", "Query", &query.to_string()),
            ["dynamodb:Query dynamodb::table/t dynamodb:LeadingKeys=r-1"]
        );
    }

    #[test]
    fn a_data_key_is_asked_for_with_its_encryption_context() {
        let request = json!({"KeyId": "arn:aws:kms:eu-central-1:1:key/k",
            "EncryptionContext": {"clinicId": "c", "purpose": "settings"}});
        assert_eq!(
            asked("kms", "GenerateDataKey", &request.to_string()),
            [
                "kms:GenerateDataKey kms:eu-central-1:1:key/k kms:EncryptionContext:clinicId=c \
              kms:EncryptionContext:purpose=settings kms:EncryptionContextKeys=clinicId,purpose"
            ]
        );
    }

    #[test]
    fn a_batch_of_a_queue_is_permitted_as_its_single_operation() {
        let request = json!({"QueueUrl": "http://127.0.0.1:1/123456789012/q"}).to_string();
        assert_eq!(
            asked("sqs", "SendMessageBatch", &request),
            ["sqs:SendMessage sqs::q"]
        );
        assert_eq!(
            asked("sqs", "ChangeMessageVisibilityBatch", &request),
            ["sqs:ChangeMessageVisibility sqs::q"]
        );
    }

    #[test]
    fn a_message_in_mime_form_is_another_action_than_one_in_parts() {
        let simple =
            json!({"FromEmailAddress": "Clinic <a@clinic.example>", "Content": {"Simple": {}}});
        assert_eq!(
            asked("ses", "SendEmail", &simple.to_string()),
            ["ses:SendEmail ses::identity/a@clinic.example ses:FromAddress=a@clinic.example"]
        );
        let raw = json!({"FromEmailAddress": "a@clinic.example", "Content": {"Raw": {"Data": ""}},
            "ConfigurationSetName": "set", "TenantName": "clinic-1"});
        assert_eq!(
            asked("ses", "SendEmail", &raw.to_string()),
            [
                "ses:SendRawEmail ses::identity/a@clinic.example \
                 ses:FromAddress=a@clinic.example ses:TenantName=clinic-1",
                "ses:SendRawEmail ses::configuration-set/set \
                 ses:FromAddress=a@clinic.example ses:TenantName=clinic-1",
            ]
        );
    }

    #[test]
    fn a_role_is_the_resource_and_what_is_not_known_is_everything() {
        let form = "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr";
        assert_eq!(
            asked("sts", "AssumeRole", form),
            ["sts:AssumeRole iam::1:role/r aws:ResourceAccount=1"]
        );
        assert_eq!(asked("ses", "GetAccount", ""), ["ses:GetAccount *"]);
        assert_eq!(
            asked("ses", "GetEmailIdentity", ""),
            ["ses:GetEmailIdentity ses::identity/clinic.example"]
        );
        assert_eq!(asked("dynamodb", "Scan", "{}"), ["dynamodb:Scan *"]);
    }
}
