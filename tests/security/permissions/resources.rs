//! How the template's resources are tagged, encrypted and named.

use comms_tests::{
    FUNCTIONS,
    permissions::template::{TEMPLATE, entries, logical_name, properties},
};
use serde_json::{Map, Value, json};

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
fn stored_data_is_encrypted_and_no_resource_named_by_hand() {
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
