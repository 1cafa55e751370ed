//! A misspelt field is refused with the right spelling, and never passes for something else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use comms_core::{
    HashKey, Problems, Tenant,
    request::{RequestedTenant, Submission},
};
use serde_json::{Value, json};

fn message() -> Value {
    json!({
        "title": "Appointment", "body": "See you on Monday.", "channels": ["email"],
        "recipients": [{"email": "patient@example.com"}],
        "metadata": {"clinicId": "clinic-1"}
    })
}

fn parse(value: &Value) -> Result<Submission, Problems> {
    Submission::parse(value.to_string().as_bytes())
}

fn told(value: &Value) -> Vec<(String, String)> {
    let problems = parse(value).unwrap_err();
    let problems = problems.as_slice().iter();
    problems
        .map(|problem| (problem.pointer.clone(), problem.detail.clone()))
        .collect()
}

#[test]
fn misspelt_clinic_id_does_not_send_from_the_platforms_account() {
    for key in [
        "clinicID",
        "clinicid",
        "clinic_id",
        "ClinicId",
        "clinic-id",
        "clincId",
        "clinicIdd",
        "cilnicId",
    ] {
        let mut value = message();
        value["metadata"] = json!({key: "clinic-1", "appointmentId": "a-1"});
        let told = told(&value);
        assert_eq!(told.len(), 1, "{key}: {told:?}");
        assert_eq!(told[0].0, format!("/metadata/{key}"));
        assert!(told[0].1.contains("write clinicId"), "{}", told[0].1);
    }
}

#[test]
fn misspelt_clinic_id_beside_the_right_one_is_refused_as_well() {
    let mut value = message();
    value["metadata"]["clinic_id"] = json!("clinic-2");
    assert_eq!(told(&value)[0].0, "/metadata/clinic_id");
}

#[test]
fn clinic_id_outside_of_metadata_is_told_where_it_belongs() {
    for field in [
        "clinicId",
        "clinic_id",
        "ClinicID",
        "clincId",
        "tenantId",
        "tenant_id",
    ] {
        let mut value = message();
        value.as_object_mut().unwrap().remove("metadata");
        value[field] = json!("clinic-1");
        let told = told(&value);
        assert_eq!(told.len(), 1, "{field}: {told:?}");
        assert_eq!(told[0].0, format!("/{field}"));
        assert!(told[0].1.contains("metadata.clinicId"), "{}", told[0].1);
    }
}

#[test]
fn clinic_id_that_is_null_does_not_send_from_the_platforms_account() {
    let mut value = message();
    value["metadata"]["clinicId"] = json!(null);
    let told = told(&value);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "/metadata/clinicId");
}

#[test]
fn references_of_the_caller_are_still_free() {
    let mut value = message();
    for key in [
        "appointmentId",
        "clinic",
        "clinicName",
        "doctorId",
        "Clinic-Region",
        "",
    ] {
        value["metadata"][key] = json!("x");
    }
    assert_eq!(parse(&value).unwrap().request.references.len(), 6);
}

#[test]
fn unknown_field_is_told_with_the_known_one_that_is_near() {
    for (pointer, field, meant) in [
        ("", "channel", "channels"),
        ("", "Title", "title"),
        ("", "expires_at", "expiresAt"),
        ("", "idempotency-key", "idempotencyKey"),
        ("", "reciepients", "recipients"),
        ("", "attachment", "attachments"),
        ("", "metaData", "metadata"),
        ("/recipients/0", "phone_number", "phoneNumber"),
        ("/recipients/0", "phone", "phoneNumber"),
        ("/recipients/0", "e-mail", "email"),
    ] {
        let mut value = message();
        value.pointer_mut(pointer).unwrap()[field] = json!("x");
        let found = told(&value);
        let of_field = found
            .iter()
            .find(|(at, _)| *at == format!("{pointer}/{field}"));
        let detail = &of_field.unwrap_or_else(|| panic!("{field}: {found:?}")).1;
        assert_eq!(
            *detail,
            format!("is not a known field; did you mean {meant}?")
        );
    }
    let mut value = message();
    value["colour"] = json!("red");
    assert_eq!(told(&value)[0].1, "is not a known field; remove it");
}

#[test]
fn many_unknown_fields_are_not_all_compared() {
    let mut value = message();
    for n in 0..15_000 {
        value[format!("field{n}").repeat(4)] = json!(1);
    }
    assert_eq!(parse(&value).unwrap_err().as_slice().len(), Problems::MOST);
}

#[test]
fn global_account_may_be_asked_for_by_name() {
    let mut value = message();
    value["metadata"] = json!({"clinicId": "_global"});
    let named = parse(&value).unwrap();
    assert_eq!(named.request.requested, RequestedTenant::Global);
    assert_eq!(named.request.tenant(), Tenant::Global);
    let written: Value = serde_json::from_str(&named.to_json().unwrap()).unwrap();
    assert_eq!(written["metadata"]["clinicId"], "_global");

    value["metadata"] = json!({});
    let unnamed = parse(&value).unwrap();
    assert_eq!(unnamed.request.requested, RequestedTenant::Unnamed);
    let key = HashKey::from_bytes(&[7; HashKey::LENGTH]);
    assert_eq!(
        named.request.payload_hash(&key).unwrap(),
        unnamed.request.payload_hash(&key).unwrap(),
        "the same communication"
    );
}
