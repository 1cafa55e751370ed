//! Least privilege: what the functions' roles in `template.yaml` permit, held against what the functions do.
//!
//! The local AWS notes what IAM would be asked because of each call, and by which function's key it was signed. Every
//! test with a [`World`] fails if one of its functions did what its role does not permit. The tests here lead the
//! functions through all that they do with AWS, and fail if a right could be taken away without anybody missing it.
//! What AWS itself does in the functions' names (take messages from a queue, write logs, encrypt messages) follows from
//! the template.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{
    aws::{ACCOUNT, Access, Fault, LocalAws, REGION},
    smtp::{Action, Stage},
};
use serde_json::{Map, Value, json};

use crate::{
    openapi::contract::yaml,
    recording::{SHORT_BATCH, fail_outcomes},
    world::{CLINIC, FROM, FUNCTIONS, World, access_key_id, communication, email, immediate},
};

/// One action on one resource under some conditions: what is left of a statement's lists when each pair of their
/// members is written out.
#[derive(Debug, Clone, PartialEq)]
struct Grant {
    statement: String,
    action: String,
    /// An ARN, with `*` and `?`.
    resource: String,
    conditions: Vec<Condition>,
}

/// An operator on a key (IAM user guide, "IAM JSON policy elements: Condition operators").
#[derive(Debug, Clone, PartialEq)]
struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    StringEquals,
    /// True for a key that is not there.
    StringNotEquals,
    StringLike,
    /// True for a key that is not there, as the next one.
    EachStringLike,
    EachStringNotLike,
    Null,
}

impl Operator {
    fn parse(name: &str) -> Self {
        match name {
            "StringEquals" => Self::StringEquals,
            "StringNotEquals" => Self::StringNotEquals,
            "StringLike" => Self::StringLike,
            "ForAllValues:StringLike" => Self::EachStringLike,
            "ForAllValues:StringNotLike" => Self::EachStringNotLike,
            "Null" => Self::Null,
            other => panic!("{other} is an operator that is unknown here"),
        }
    }

    /// Whether more values permit more.
    fn widens(self) -> bool {
        match self {
            Self::StringEquals | Self::StringLike | Self::EachStringLike => true,
            Self::StringNotEquals | Self::EachStringNotLike | Self::Null => false,
        }
    }
}

impl Condition {
    fn holds(&self, context: &BTreeMap<String, BTreeSet<String>>) -> bool {
        let none = BTreeSet::new();
        let given = context.get(&self.key).unwrap_or(&none);
        let known = |value: &String| self.values.iter().any(|pattern| like(pattern, value));
        match self.operator {
            Operator::StringEquals => given.iter().any(|value| self.values.contains(value)),
            Operator::StringNotEquals => !given.iter().any(|value| self.values.contains(value)),
            Operator::StringLike => given.iter().any(known),
            Operator::EachStringLike => given.iter().all(known),
            Operator::EachStringNotLike => !given.iter().any(known),
            Operator::Null => self.values == [given.is_empty().to_string()],
        }
    }
}

impl Grant {
    fn permits(&self, access: &Access) -> bool {
        self.action == access.action
            && like(&self.resource, &access.resource)
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(&access.context))
    }
}

/// Whether `pattern`, in which `*` stands for any text and `?` for any character, stands for `text`.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices().any(|(at, _)| like(rest, &text[at..])) || like(rest, "")
        }
        Some(first) => {
            let mut characters = text.chars();
            characters
                .next()
                .is_some_and(|found| first == '?' || first == found)
                && like(&pattern[first.len_utf8()..], characters.as_str())
        }
    }
}

/// The settings' key, by one name for all worlds: each makes its own.
const KEY: &str = "key/settings";

/// An ARN in the local AWS.
fn arn(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
}

static TEMPLATE: LazyLock<Value> = LazyLock::new(|| yaml("template.yaml"));

static RIGHTS: LazyLock<BTreeMap<&'static str, Vec<Grant>>> = LazyLock::new(|| {
    let of_function = |function| {
        let role = properties(&logical_name(function))["Role"]
            .as_str()
            .unwrap();
        let statements = [policy(role.strip_suffix(".Arn").unwrap()), of_the_key(role)].concat();
        (function, grants(&statements))
    };
    FUNCTIONS.into_iter().map(of_function).collect()
});

/// What the template calls a function.
pub(crate) fn logical_name(function: &str) -> String {
    comms_functions::named(function).unwrap().logical_id()
}

fn properties(resource: &str) -> &'static Value {
    let properties = &TEMPLATE["Resources"][resource]["Properties"];
    assert!(properties.is_object(), "{resource}");
    properties
}

/// The statements of a role's one policy.
fn policy(role: &str) -> Vec<Value> {
    let role = properties(role);
    let in_a_vpc = json!(["InVpc", ["VpcAccess"], "AWS::NoValue"]);
    assert_eq!(role["ManagedPolicyArns"], in_a_vpc, "{role}");
    let [policy] = role["Policies"].as_array().unwrap().as_slice() else {
        panic!("one policy is enough: {role}");
    };
    policy["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .clone()
}

/// The statements of the settings' key that name this role, as if they were the role's: for a principal of the key's own
/// account, one permits as the other does (KMS developer guide, "Key policies in AWS KMS").
fn of_the_key(role: &str) -> Vec<Value> {
    let statements = statements_of_the_key("Key").into_iter();
    let named = statements.filter(|statement| {
        let principals = &statement["Principal"]["AWS"];
        principals.is_string() && principals == role
            || principals
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == role))
    });
    named
        .map(|mut statement| {
            statement.as_object_mut().unwrap().remove("Principal");
            statement["Resource"] = json!("Key.Arn");
            statement
        })
        .collect()
}

/// The statements of a key's policy, without those that a condition of the template keeps out by default.
fn statements_of_the_key(key: &str) -> Vec<Value> {
    let mut statements = properties(key)["KeyPolicy"]["Statement"]
        .as_array()
        .unwrap()
        .clone();
    statements.retain(Value::is_object);
    statements
}

fn grants(statements: &[Value]) -> Vec<Grant> {
    statements.iter().flat_map(grants_of).collect()
}

fn grants_of(statement: &Value) -> Vec<Grant> {
    let fields = statement.as_object().unwrap();
    let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
    assert!(
        fields.keys().all(|field| known.contains(&field.as_str())),
        "{statement}"
    );
    assert_eq!(statement["Effect"], "Allow");
    let conditions: Vec<_> = entries(&statement["Condition"])
        .flat_map(|(operator, keys)| {
            entries(keys).map(move |(key, values)| (operator, key, values))
        })
        .map(|(operator, key, values)| Condition {
            operator: Operator::parse(operator),
            key: key.clone(),
            values: texts(values).iter().map(|value| resolve(value)).collect(),
        })
        .collect();
    let mut grants = Vec::new();
    for action in texts(&statement["Action"]) {
        for resource in texts(&statement["Resource"]) {
            grants.push(Grant {
                statement: statement["Sid"].as_str().unwrap().to_owned(),
                action: action.clone(),
                resource: resolve(&resource),
                conditions: conditions.clone(),
            });
        }
    }
    grants
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.as_str().unwrap().to_owned();
    value
        .as_array()
        .map_or_else(|| vec![one(value)], |all| all.iter().map(one).collect())
}

/// What a reference of the template is in the local AWS, where it is called the same in every world.
fn resolve(text: &str) -> String {
    if let Some(resource) = text.strip_suffix(".Arn") {
        let kind = TEMPLATE["Resources"][resource]["Type"].as_str().unwrap();
        return match (kind, resource) {
            (_, "SettingsTable") => arn("dynamodb", "table/clinic-comms-settings"),
            (_, "DeliveriesTable") => arn("dynamodb", "table/clinic-comms-deliveries"),
            (_, "Queue") => arn("sqs", "clinic-comms"),
            (_, "UrgentQueue") => arn("sqs", "clinic-comms-urgent"),
            (_, "DeadLetterQueue") => arn("sqs", "clinic-comms-dlq"),
            (_, "Key") => arn("kms", KEY),
            ("AWS::KMS::Key", other) => arn("kms", &format!("key/{other}")),
            ("AWS::Logs::LogGroup", other) => arn("logs", &format!("log-group:{other}:*")),
            (kind, other) => panic!("{other} ({kind}) is in a policy and is unknown here"),
        };
    }
    if let Some(default) = TEMPLATE["Parameters"][text]["Default"].as_str() {
        return default.to_owned();
    }
    let mut resolved = text
        .replace("${AWS::Partition}", "aws")
        .replace("${AWS::Region}", REGION)
        .replace("${AWS::AccountId}", ACCOUNT)
        .replace("${AWS::URLSuffix}", "amazonaws.com");
    for (name, parameter) in entries(&TEMPLATE["Parameters"]) {
        if let Some(default) = parameter["Default"].as_str() {
            resolved = resolved.replace(&format!("${{{name}}}"), default);
        }
    }
    assert!(
        !resolved.contains("${"),
        "{text} names what is unknown here"
    );
    resolved
}

/// What the functions asked of the local AWS, by function.
fn asked(aws: &LocalAws) -> BTreeMap<&'static str, BTreeSet<Access>> {
    let mut asked = BTreeMap::new();
    for mut access in aws.accesses() {
        let Some(function) = FUNCTIONS
            .into_iter()
            .find(|function| access_key_id(function) == access.access_key_id)
        else {
            // A test itself, or a clinic's own credentials.
            continue;
        };
        // Whichever key it is: a further one gets the statements of the first (OPERATIONS.md, "Moving to another KMS
        // key").
        if access.resource.starts_with(&arn("kms", "key/")) {
            access.resource = arn("kms", KEY);
        }
        asked
            .entry(function)
            .or_insert_with(BTreeSet::new)
            .insert(access);
    }
    asked
}

/// What AWS does in a function's name, with what that in turn brings about.
fn implied(function: &str) -> Vec<Access> {
    let properties = properties(&logical_name(function));
    let mut implied = Vec::new();
    let mut add = |action: &str, resource: String| implied.push(access(action, resource));
    let logs = properties["LoggingConfig"]["LogGroup"].as_str().unwrap();
    for action in ["logs:CreateLogStream", "logs:PutLogEvents"] {
        add(
            action,
            arn("logs", &format!("log-group:{logs}:log-stream:1")),
        );
    }
    if TEMPLATE["Globals"]["Function"]["Tracing"] == "Active" {
        for action in ["xray:PutTraceSegments", "xray:PutTelemetryRecords"] {
            add(action, "*".to_owned());
        }
    }
    // An event source mapping polls in the name of the function's role (Lambda developer guide, "Using Lambda with
    // Amazon SQS", execution role permissions).
    let sources = entries(&properties["Events"]).filter(|(_, event)| event["Type"] == "SQS");
    for (_, source) in sources {
        for action in [
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
        ] {
            add(
                action,
                resolve(source["Properties"]["Queue"].as_str().unwrap()),
            );
        }
    }
    implied
}

/// What SQS asks KMS in the name of whoever sends to or receives from an encrypted queue (SQS developer guide, "Amazon
/// SQS Key management", configuring KMS permissions).
fn of_encryption(access: &Access) -> Vec<Access> {
    let actions: &[&str] = match access.action.as_str() {
        "sqs:SendMessage" => &["kms:GenerateDataKey", "kms:Decrypt"],
        "sqs:ReceiveMessage" => &["kms:Decrypt"],
        _ => &[],
    };
    let queues = entries(&TEMPLATE["Resources"])
        .filter(|(_, resource)| resource["Type"] == "AWS::SQS::Queue");
    let Some((_, queue)) = queues
        .into_iter()
        .find(|(name, _)| resolve(&format!("{name}.Arn")) == access.resource)
    else {
        return Vec::new();
    };
    let key = queue["Properties"]["KmsMasterKeyId"].as_str();
    let key = resolve(key.unwrap_or_else(|| panic!("not under a key of the account: {queue}")));
    let service = format!("sqs.{REGION}.amazonaws.com");
    let made = actions.iter().map(|action| {
        with(
            self::access(action, key.clone()),
            "kms:ViaService",
            &service,
        )
    });
    made.collect()
}

fn access(action: &str, resource: String) -> Access {
    Access {
        access_key_id: String::new(),
        action: action.to_owned(),
        resource,
        context: BTreeMap::new(),
    }
}

fn with(mut access: Access, key: &str, value: &str) -> Access {
    access
        .context
        .entry(key.to_owned())
        .or_default()
        .insert(value.to_owned());
    access
}

/// What of `accesses` is not permitted.
fn missing<'a>(grants: &[Grant], accesses: impl IntoIterator<Item = &'a Access>) -> Vec<String> {
    accesses
        .into_iter()
        .filter(|access| !grants.iter().any(|grant| grant.permits(access)))
        .map(|access| {
            format!(
                "{} on {} with {:?}",
                access.action, access.resource, access.context
            )
        })
        .collect()
}

/// What can be taken away from `grants`, whole or a value of a condition, and still nothing is missing.
fn unused(grants: &[Grant], accesses: &[Access]) -> Vec<String> {
    let mut unused = Vec::new();
    let mut without = |place: usize, instead: Option<Grant>, what: String| {
        let mut fewer = grants.to_vec();
        fewer.splice(place..=place, instead);
        let works = missing(&fewer, accesses).is_empty();
        unused.extend(works.then_some(what));
        works
    };
    for (place, grant) in grants.iter().enumerate() {
        let what = format!(
            "{}: {} on {}",
            grant.statement, grant.action, grant.resource
        );
        if without(place, None, what.clone()) {
            continue;
        }
        for (number, condition) in grant.conditions.iter().enumerate() {
            if !condition.operator.widens() || condition.values.len() < 2 {
                continue;
            }
            for (value, name) in condition.values.iter().enumerate() {
                let mut tighter = grant.clone();
                tighter.conditions[number].values.remove(value);
                without(
                    place,
                    Some(tighter),
                    format!("{what} where {} is {name}", condition.key),
                );
            }
        }
    }
    unused
}

/// Fails if a function did what its role does not permit.
pub(crate) fn assert_permitted(aws: &LocalAws) {
    for (function, accesses) in asked(aws) {
        let missing = missing(&RIGHTS[function], &accesses);
        assert!(
            missing.is_empty(),
            "the role of {function} does not permit {missing:#?}"
        );
    }
}

/// A clinic's e-mail by SES, in an account as `account` says.
fn ses(mut account: Value) -> Value {
    account["region"] = json!("eu-central-1");
    account["fromEmail"] = json!(FROM);
    account["configurationSet"] = json!("clinics");
    email(
        &json!({"provider": "aws_ses", "credentials": account}),
        FROM,
    )
}

/// The platform's own account, in which the clinic is a tenant.
fn platform() -> Value {
    ses(json!({"tenantName": CLINIC}))
}

/// The clinic's account, by a role.
fn role() -> Value {
    let name = properties_of_parameter("SesRoleNamePattern").replace('*', "mail");
    ses(json!({"roleArn": format!("arn:aws:iam::210987654321:role/{name}"), "externalId": CLINIC}))
}

fn properties_of_parameter(name: &str) -> &'static str {
    TEMPLATE["Parameters"][name]["Default"].as_str().unwrap()
}

/// A communication of this priority, which says on which queue it goes.
fn of_priority(priority: &str) -> Value {
    let mut communication = communication();
    communication["priority"] = json!(priority);
    communication
}

/// A communication with a file, which goes out in MIME form.
fn with_file(mut communication: Value) -> Value {
    communication["attachments"] = json!([{"filename": "a.txt", "contentType": "text/plain",
        "content": BASE64_STANDARD.encode("See you.")}]);
    communication
}

/// Takes the key of the keyed hashes away, so that whoever needs it next makes it.
async fn forget_hash_key(world: &World) {
    let key = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .delete_item()
        .table_name(&world.aws.resources().settings_table)
        .set_key(Some([key("pk", "_hash-key"), key("sk", "key")].into()))
        .send()
        .await
        .unwrap();
}

/// Settings: saved, read, changed, listed, brought back, deleted; and what the providers' health is.
async fn settings_of_a_clinic(world: &mut World) {
    world.save_clinic().await;
    world.restart();
    world
        .patch_settings(CLINIC, json!({"email": {"defaultFromName": "Changed"}}))
        .await
        .expect(200);
    world.get_settings(CLINIC).await.expect(200);
    world.versions(CLINIC, "").await.expect(200);
    world.restore(CLINIC, "1", &[]).await.expect(200);
    let health = format!("/api/v1/clinics/{CLINIC}/communication/health");
    let admin = crate::world::super_admin();
    world
        .config("GET", &health, None, admin, &[])
        .await
        .expect(200);
    let stats = format!("/api/v1/clinics/{CLINIC}/communication/stats");
    let admin = crate::world::super_admin();
    world
        .config("GET", &stats, None, admin, &[])
        .await
        .expect(200);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    let purged = format!("/api/v1/clinics/{CLINIC}?purge=true");
    let admin = crate::world::super_admin();
    world
        .config("DELETE", &purged, None, admin, &[])
        .await
        .expect(200);
}

/// Leads every function through all that it does with AWS. What a new call to AWS is for belongs here too.
async fn everything() -> LocalAws {
    let mut world = World::new().await;

    // The first to need the key of the hashes makes it, whoever that is; all others find it.
    world.post(&communication()).await.expect(202);
    forget_hash_key(&world).await;
    world.restart();
    world.run_worker().await;
    forget_hash_key(&world).await;
    world.restart();

    settings_of_a_clinic(&mut world).await;
    // Nobody sees settings before the counter's key is opened.
    world.restart();
    let test = json!({"testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &test).await.expect(404);

    for (number, account) in [platform(), role()].into_iter().enumerate() {
        world.put_settings(CLINIC, account).await;
        world.restart();
        if number == 0 {
            world.post(&immediate()).await.expect(200);
        } else {
            world.enqueue(&communication().to_string()).await;
            world.run_worker().await;
        }
        world.restart();

        let sent = world.post(&with_file(immediate())).await.expect(200);
        world.status(&sent.request_id()).await.expect(200);
        world.post(&immediate()).await.expect(200);
        for queued in [
            of_priority("normal"),
            with_file(communication()),
            of_priority("critical"),
        ] {
            world.post(&queued).await.expect(202);
        }
        // One queue after the other.
        world.run_worker().await;
        world.run_worker().await;
        let test = json!({"testEmail": "admin@clinic.example"});
        world.test_email(CLINIC, &test).await.expect(200);
    }

    // A communication that has ended is known by its key, whatever the quota says.
    let mut limited = email(&world.entry(), FROM);
    limited["email"]["rateLimit"] = json!({"maxPerDay": 1});
    world.put_settings(CLINIC, limited).await.expect(200);
    world.restart();
    for _ in 0..2 {
        world.post_with_key(&immediate(), "key").await.expect(200);
    }
    let unlimited = email(&world.entry(), FROM);
    world.put_settings(CLINIC, unlimited).await.expect(200);
    world.restart();

    // An address for replies is verified, by a link that counts under the platform's limit.
    let global = world.save_global().await;
    let limited = json!({"email": {"rateLimit": {"maxPerDay": 1_000}}});
    world.patch_settings("_global", limited).await.expect(200);
    world.restart();
    let link = crate::platform_account::link_to(&world, &global, "desk@clinic.example").await;
    for method in ["GET", "POST"] {
        world
            .config(method, &link, None, Value::Null, &[])
            .await
            .expect(200);
    }

    // A passed test takes back that an entry is down.
    world
        .smtp
        .on(Stage::Auth, Action::reply("535 5.7.8 refused"));
    world.post(&immediate()).await;
    let test = json!({"verifyOnly": true});
    world.test_email(CLINIC, &test).await.expect(200);

    // What cannot be worked on becomes a dead letter; what has to wait is told for how long, on either queue.
    world.enqueue("{").await;
    world.run_worker().await;
    for queued in ["normal", "critical"].map(of_priority) {
        world.post(&queued).await.expect(202);
        world
            .aws
            .fail_next("dynamodb", "UpdateItem", 100, Fault::AccessDenied);
        assert!(!world.run_worker().await.failed.is_empty());
        world.aws.clear_faults();
    }

    // What could not be recorded goes on the queue, and is recorded from there.
    world.restart();
    while !world.run_worker().await.records.is_empty() {}
    let sent = world.post(&of_priority("normal")).await.expect(202);
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    world.run_worker_with(&world.worker, SHORT_BATCH).await;
    world.aws.watch(|_| Box::pin(async { None }));
    world.run_worker().await;
    let status = world.status(&sent.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"][0]["status"], "sent");
    world.aws.clone()
}

/// All that a function and AWS in its name do.
fn needs(function: &str, asked: &BTreeSet<Access>) -> Vec<Access> {
    let mut needs: Vec<_> = asked.iter().cloned().collect();
    needs.extend(implied(function));
    let encryption: Vec<_> = needs.iter().flat_map(of_encryption).collect();
    needs.extend(encryption);
    needs
}

#[tokio::test]
async fn every_right_is_needed_and_every_need_has_its_right() {
    let asked = asked(&everything().await);
    let mut wrong = Vec::new();
    for function in FUNCTIONS {
        let (rights, needs) = (&RIGHTS[function], needs(function, &asked[function]));
        let missing = missing(rights, &needs).into_iter();
        wrong.extend(missing.map(|what| format!("{function} may not, but does: {what}")));
        let unused = unused(rights, &needs).into_iter();
        wrong.extend(unused.map(|what| format!("{function} may, but never does: {what}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rights to one table, one key and one queue, and what uses them all.
fn example() -> (Vec<Grant>, Vec<Access>) {
    let statements = json!([
        {"Sid": "Keep", "Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
         "Resource": "SettingsTable.Arn",
         "Condition": {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["a#*", "b"]}}},
        {"Sid": "Open", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": ["Key.Arn"],
         "Condition": {"StringEquals": {"kms:EncryptionContext:purpose": ["settings", "hash-key"]},
                       "Null": {"kms:EncryptionContext:clinicId": "false"}}},
    ]);
    let table = resolve("SettingsTable.Arn");
    let mut accesses = Vec::new();
    for (action, key) in [
        ("GetItem", "a#1"),
        ("GetItem", "b"),
        ("PutItem", "a#2"),
        ("PutItem", "b"),
    ] {
        let access = access(&format!("dynamodb:{action}"), table.clone());
        accesses.push(with(access, "dynamodb:LeadingKeys", key));
    }
    accesses.extend(["settings", "hash-key"].map(|purpose| decrypt(purpose, Some("clinic-1"))));
    (grants(statements.as_array().unwrap()), accesses)
}

fn decrypt(purpose: &str, clinic: Option<&str>) -> Access {
    data_key("kms:Decrypt", purpose, clinic)
}

fn data_key(action: &str, purpose: &str, clinic: Option<&str>) -> Access {
    let access = access(action, arn("kms", KEY));
    let access = with(access, "kms:EncryptionContext:purpose", purpose);
    match clinic {
        Some(clinic) => with(access, "kms:EncryptionContext:clinicId", clinic),
        None => access,
    }
}

fn item(action: &str, table: &str, key: &str) -> Access {
    let access = access(
        &format!("dynamodb:{action}"),
        resolve(&format!("{table}.Arn")),
    );
    with(access, "dynamodb:LeadingKeys", key)
}

#[test]
fn a_right_that_is_taken_away_is_missing() {
    let (rights, needs) = example();
    assert_eq!(missing(&rights, &needs), [""; 0]);
    for place in 0..rights.len() {
        let mut fewer = rights.clone();
        let taken = fewer.remove(place);
        let missing = missing(&fewer, &needs);
        assert!(!missing.is_empty());
        assert!(
            missing.iter().all(|what| what.starts_with(&taken.action)),
            "{missing:?}"
        );
    }
    // As is one whose conditions became tighter.
    let mut tighter = rights;
    tighter[2].conditions[0].values.pop();
    assert_eq!(missing(&tighter, &needs).len(), 1);
}

#[test]
fn a_right_that_is_added_is_unused() {
    let (rights, needs) = example();
    assert_eq!(unused(&rights, &needs), [""; 0]);
    let table = resolve("SettingsTable.Arn");
    let mut more = rights.clone();
    more.push(Grant {
        action: "dynamodb:DeleteItem".to_owned(),
        ..rights[0].clone()
    });
    assert_eq!(
        unused(&more, &needs),
        [format!("Keep: dynamodb:DeleteItem on {table}")]
    );
    // As is a further value of a condition, and what another right covers already.
    let mut wider = rights.clone();
    wider[0].conditions[0].values.push("c".to_owned());
    let what = format!("Keep: dynamodb:GetItem on {table}");
    assert_eq!(
        unused(&wider, &needs),
        [format!("{what} where dynamodb:LeadingKeys is c")]
    );
    let twice = [rights.clone(), vec![rights[0].clone()]].concat();
    assert_eq!(unused(&twice, &needs), [what.clone(), what]);
}

#[test]
fn conditions_mean_what_iam_says() {
    for (operator, values, given, holds) in [
        ("StringEquals", "a", vec![], false),
        ("StringEquals", "a", vec!["a"], true),
        ("StringEquals", "a*", vec!["ab"], false),
        ("StringLike", "a*", vec!["ab"], true),
        ("StringLike", "a?c*e", vec!["abcde"], true),
        ("StringLike", "a?", vec!["a"], false),
        ("ForAllValues:StringLike", "a*", vec![], true),
        ("ForAllValues:StringLike", "a*", vec!["ab", "b"], false),
        ("ForAllValues:StringNotLike", "a*", vec!["b"], true),
        ("ForAllValues:StringNotLike", "a*", vec!["b", "ab"], false),
        ("Null", "false", vec![], false),
        ("Null", "false", vec!["a"], true),
        ("Null", "true", vec![], true),
    ] {
        let condition = Condition {
            operator: Operator::parse(operator),
            key: "key".to_owned(),
            values: vec![values.to_owned()],
        };
        let mut access = access("s:A", "*".to_owned());
        for value in &given {
            access = with(access, "key", value);
        }
        assert_eq!(
            condition.holds(&access.context),
            holds,
            "{operator} {values} {given:?}"
        );
    }
}

/// The functions whose roles permit an access.
fn permitted(access: &Access) -> Vec<&'static str> {
    let permits = |function: &&str| RIGHTS[*function].iter().any(|grant| grant.permits(access));
    FUNCTIONS.into_iter().filter(permits).collect()
}

#[test]
fn data_keys_are_made_and_opened_for_a_clinic_and_for_what_the_function_does() {
    let with_settings = ["send", "worker", "config", "config-test"];
    let generate = "kms:GenerateDataKey";
    for (access, functions) in [
        (decrypt("settings", Some("clinic-1")), &with_settings[..]),
        (decrypt("hash-key", Some("_hash-key")), &FUNCTIONS),
        (
            data_key(generate, "settings", Some("clinic-1")),
            &["config"],
        ),
        (
            data_key(generate, "hash-key", Some("_hash-key")),
            &["send", "worker", "config"],
        ),
        (data_key(generate, "hash-key", Some("clinic-1")), &[]),
        // Without saying whose, or for anything else.
        (decrypt("settings", None), &[]),
        (data_key(generate, "settings", None), &[]),
        (decrypt("backup", Some("clinic-1")), &[]),
        (self::access("kms:Decrypt", arn("kms", KEY)), &[]),
        // Nobody moves data keys to another key, or encrypts with this one.
        (
            data_key("kms:ReEncryptFrom", "settings", Some("clinic-1")),
            &[],
        ),
        (data_key("kms:Encrypt", "settings", Some("clinic-1")), &[]),
        // The queues' key is for SQS to use.
        (self::access("kms:Decrypt", resolve("QueueKey.Arn")), &[]),
    ] {
        assert_eq!(permitted(&access), functions, "{access:?}");
    }
}

#[test]
fn items_are_changed_by_the_function_whose_they_are() {
    let (settings, deliveries) = ("SettingsTable", "DeliveriesTable");
    let request = "5f1d7a84e2fb4f2e8a3c9b0d6e7f8091";
    for (access, functions) in [
        (item("PutItem", settings, "clinic-1"), &["config"][..]),
        (item("PutItem", settings, "_global"), &["config"]),
        (
            item("PutItem", settings, "_hash-key"),
            &["send", "worker", "config"],
        ),
        (
            item("UpdateItem", settings, "_test-limit#clinic#clinic-1"),
            &["config-test"],
        ),
        (item("UpdateItem", settings, "clinic-1"), &["config"]),
        (item("UpdateItem", settings, "_hash-key"), &[]),
        (
            item("PutItem", settings, "_test-limit#clinic#clinic-1"),
            &[],
        ),
        (item("DeleteItem", settings, "clinic-1"), &[]),
        (item("PutItem", deliveries, "r-1"), &["send", "worker"]),
        (item("UpdateItem", deliveries, "r-1"), &["send", "worker"]),
        (
            item("UpdateItem", deliveries, "quota#_global#email"),
            &["send", "worker", "config-test"],
        ),
        (
            item("UpdateItem", deliveries, "quota#clinic-1#email"),
            &["send", "worker"],
        ),
        (
            item("UpdateItem", deliveries, "health#clinic-1"),
            &["send", "worker", "config-test"],
        ),
        (item("GetItem", deliveries, "r-1"), &[]),
        (item("Query", deliveries, "r-1"), &[]),
        (item("Query", deliveries, request), &["send", "status"]),
        (item("Query", deliveries, "usage#clinic-1"), &["config"]),
        (item("DeleteItem", deliveries, "r-1"), &[]),
    ] {
        assert_eq!(permitted(&access), functions, "{access:?}");
    }
    let scan = self::access("dynamodb:Scan", resolve("SettingsTable.Arn"));
    assert_eq!(permitted(&scan), [""; 0]);
}

#[test]
fn mail_goes_out_of_the_platforms_account_for_a_tenant_and_roles_are_those_made_for_it() {
    let identity = access("ses:SendEmail", arn("ses", "identity/clinic.example"));
    assert_eq!(permitted(&identity), [""; 0]);
    let of_tenant = with(identity, "ses:TenantName", "clinic-1");
    assert_eq!(permitted(&of_tenant), ["send", "worker", "config-test"]);
    // What is in MIME form has no tenant, and a sender.
    let identity = access("ses:SendRawEmail", arn("ses", "identity/clinic.example"));
    assert_eq!(permitted(&identity), [""; 0]);
    let from_somebody = with(identity, "ses:FromAddress", "desk@clinic.example");
    assert_eq!(permitted(&from_somebody), ["send", "worker"]);
    for (role, statement) in ["SendRole", "WorkerRole"].map(|role| (role, policy(role))) {
        let raw = statement
            .iter()
            .find(|statement| statement["Action"] == "ses:SendRawEmail");
        assert_eq!(
            raw.unwrap()["Condition"],
            json!({"StringLike": {"ses:FromAddress": "SesTenantSenders"}}),
            "{role}"
        );
    }
    let assume = |name| {
        access(
            "sts:AssumeRole",
            format!("arn:aws:iam::210987654321:role/{name}"),
        )
    };
    assert_eq!(
        permitted(&assume("clinic-ses/mail")),
        ["send", "worker", "config-test"]
    );
    assert_eq!(permitted(&assume("admin")), [""; 0]);
    let own = arn("iam", "role/clinic-ses/mail").replace(REGION, "");
    let own = with(
        access("sts:AssumeRole", own),
        "aws:ResourceAccount",
        ACCOUNT,
    );
    assert_eq!(permitted(&own), [""; 0]);
}

#[test]
fn no_role_is_there_but_the_functions_and_no_right_is_to_everything() {
    let used: BTreeSet<_> = FUNCTIONS
        .iter()
        .map(|function| {
            properties(&logical_name(function))["Role"]
                .as_str()
                .unwrap()
        })
        .map(|role| role.strip_suffix(".Arn").unwrap())
        .collect();
    let iam = entries(&TEMPLATE["Resources"])
        .filter(|(_, resource)| resource["Type"].as_str().unwrap().starts_with("AWS::IAM::"))
        .map(|(name, _)| name.as_str());
    // Neither of these is a function's: CodeDeploy's own, and what Lambda does for all of them in a VPC.
    let others = BTreeSet::from(["DeploymentRole", "VpcAccess"]);
    assert_eq!(iam.collect::<BTreeSet<_>>(), &used | &others);
    for grant in RIGHTS.values().flatten() {
        assert!(!grant.action.contains('*'), "{grant:?}");
        // The actions here that know no resources (Service Authorization Reference, Amazon SES v2 and AWS X-Ray).
        let knows_none = [
            "ses:GetAccount",
            "xray:PutTraceSegments",
            "xray:PutTelemetryRecords",
        ]
        .contains(&grant.action.as_str());
        assert_eq!(grant.resource == "*", knows_none, "{grant:?}");
    }
}

/// What makes use of a key, rather than looks after it.
fn uses_a_key(action: &str) -> bool {
    let action = action.strip_prefix("kms:").unwrap();
    ["*", "CreateGrant", "Decrypt"].contains(&action)
        || [
            "Encrypt",
            "GenerateDataKey",
            "ReEncrypt",
            "Generate",
            "Verify",
        ]
        .iter()
        .any(|use_| action.starts_with(use_))
}

#[test]
fn iam_alone_gives_nobody_the_key_of_the_credentials() {
    for (role, body) in entries(&TEMPLATE["Resources"]) {
        if body["Type"] == "AWS::IAM::Role" {
            let policies = body["Properties"]["Policies"].to_string();
            assert!(!policies.contains("\"Key.Arn\""), "{role}");
        }
    }
    let mut accounts = 0;
    for statement in properties("Key")["KeyPolicy"]["Statement"]
        .as_array()
        .unwrap()
    {
        // What the template's conditions let in is held to the same.
        let statement = if statement.is_array() {
            &statement[1]
        } else {
            statement
        };
        let uses = texts(&statement["Action"])
            .iter()
            .any(|action| uses_a_key(action));
        if statement["Principal"].to_string().contains(":root") {
            accounts += 1;
            assert!(!uses, "{statement}");
        } else {
            assert!(uses, "{statement}");
            let purpose = &statement["Condition"]["StringEquals"]["kms:EncryptionContext:purpose"];
            assert!(!purpose.is_null(), "{statement}");
        }
    }
    assert_eq!(accounts, 2);
}

#[test]
fn the_queues_key_is_used_through_sqs_alone() {
    let through =
        json!({"StringEquals": {"kms:ViaService": "sqs.${AWS::Region}.${AWS::URLSuffix}"}});
    let mut used = Vec::new();
    for statement in statements_of_the_key("QueueKey") {
        let actions = texts(&statement["Action"]);
        if actions.iter().any(|action| uses_a_key(action)) {
            assert_eq!(statement["Condition"], through, "{statement}");
            used.extend(actions);
        }
    }
    assert_eq!(used, ["kms:GenerateDataKey", "kms:Decrypt"]);
}

#[test]
fn everything_that_can_have_tags_says_its_service_and_its_stage() {
    // What CloudFormation gives no tags.
    let without = [
        "AWS::ApiGatewayV2::ApiMapping",
        "AWS::CloudWatch::Dashboard",
        "AWS::IAM::ManagedPolicy",
        "AWS::Route53::RecordSetGroup",
        "AWS::SQS::QueuePolicy",
    ];
    let wanted = json!({"service": "clinic-comms", "stage": "Stage"});
    for (name, resource) in entries(&TEMPLATE["Resources"]) {
        let kind = resource["Type"].as_str().unwrap();
        let properties = &resource["Properties"];
        let tags = if kind == "AWS::Serverless::Function" {
            &TEMPLATE["Globals"]["Function"]["Tags"]
        } else {
            &properties["Tags"]
        };
        let tags: Value = match tags.as_array() {
            None => tags.clone(),
            Some(list) => list
                .iter()
                .map(|tag| {
                    (
                        tag["Key"].as_str().unwrap().to_owned(),
                        tag["Value"].clone(),
                    )
                })
                .collect::<Map<_, _>>()
                .into(),
        };
        let expected = if without.contains(&kind) {
            &Value::Null
        } else {
            &wanted
        };
        assert_eq!(&tags, expected, "{name}");
    }
}

#[test]
fn what_is_kept_is_encrypted_and_nothing_is_named_by_hand() {
    let of_type = |kind: &'static str| {
        let all = entries(&TEMPLATE["Resources"]);
        all.filter(move |(_, resource)| resource["Type"] == kind)
    };
    let customer_key = json!(["HasCustomerKey", "CustomerKeyArn", "AWS::NoValue"]);
    for (name, queue) in of_type("AWS::SQS::Queue") {
        assert_eq!(
            queue["Properties"]["KmsMasterKeyId"], "QueueKey.Arn",
            "{name}"
        );
    }
    for (name, table) in of_type("AWS::DynamoDB::Table") {
        let table = &table["Properties"];
        assert_eq!(table["SSESpecification"]["SSEEnabled"], true, "{name}");
        assert_eq!(
            table["SSESpecification"]["KMSMasterKeyId"], customer_key,
            "{name}"
        );
        assert_eq!(
            table["DeletionProtectionEnabled"][0], "IsProtected",
            "{name}"
        );
    }
    for (name, key) in of_type("AWS::KMS::Key") {
        assert_eq!(key["Properties"]["EnableKeyRotation"], true, "{name}");
    }
    for (name, logs) in of_type("AWS::Logs::LogGroup") {
        assert_eq!(
            logs["Properties"]["RetentionInDays"], "LogRetentionDays",
            "{name}"
        );
        assert_eq!(logs["Properties"]["KmsKeyId"], customer_key, "{name}");
    }
    let names = [
        "TableName",
        "QueueName",
        "RoleName",
        "FunctionName",
        "LogGroupName",
        "AlarmName",
        "Name",
    ];
    for (resource, body) in entries(&TEMPLATE["Resources"]) {
        for name in names {
            let name = &body["Properties"][name];
            assert!(
                name.is_null() || name.to_string().contains("${AWS::StackName}"),
                "{resource} is called {name} in every stack"
            );
        }
    }
}

/// Variables are shown to everybody who may look at a function's configuration.
#[test]
fn the_environment_has_names_and_places_and_no_secret() {
    let globals = &TEMPLATE["Globals"]["Function"];
    let functions = FUNCTIONS.map(|function| properties(&logical_name(function)));
    let all = functions.into_iter().chain([globals]);
    for (name, value) in all.flat_map(|of| entries(&of["Environment"]["Variables"])) {
        // `!If` with nothing as its other end.
        let value = value.as_str().or_else(|| value[1].as_str()).unwrap();
        let refers = value.strip_suffix(".Arn").unwrap_or(value);
        let parameter = &TEMPLATE["Parameters"][refers];
        let is_named_after_the_stack = value.ends_with("/${AWS::StackName}");
        let is_the_account = value == "AWS::AccountId";
        assert!(
            parameter.is_object()
                || TEMPLATE["Resources"][refers].is_object()
                || is_named_after_the_stack
                || is_the_account,
            "{name} is written out"
        );
        // A parameter that is not to be seen is a secret.
        assert!(parameter["NoEcho"].is_null(), "{name}");
    }
}
