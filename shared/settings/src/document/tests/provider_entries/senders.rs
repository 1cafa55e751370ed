//! The sender of an entry.

use super::*;

#[test]
fn the_sender_is_the_entrys_own_else_the_channels() {
    let all = forms();
    for (form, address, name) in [
        (0, "front@clinic.example", "Front desk"),
        (1, "ses@clinic.example", "Clinic"),
        (3, "desk@clinic.example", "Desk"),
        (4, "hello@clinic.example", "Desk"),
    ] {
        let (provider, credentials) = &all[form];
        let settings = read(provider, credentials).unwrap();
        let email = settings.email.as_ref().unwrap();
        let sender = email.sender(&email.primary).unwrap();
        assert_eq!(sender.address.as_str(), address);
        assert_eq!(sender.name.as_deref(), Some(name));
    }
    let mut only_own = document("smtp", &all[0].1);
    only_own["email"]
        .as_object_mut()
        .unwrap()
        .shift_remove("defaultFrom");
    let mut problems = Problems::default();
    let tenant = Tenant::parse("clinic-1").unwrap();
    let smtp = CommunicationSettings::read(only_own, "", &tenant, None, &mut problems);
    assert!(smtp.is_some() && problems.is_empty(), "{problems}");
    let mut no_default = document("sendgrid", &all[4].1);
    no_default["email"]
        .as_object_mut()
        .unwrap()
        .shift_remove("defaultFrom");
    let mut problems = Problems::default();
    let settings =
        CommunicationSettings::read(no_default.clone(), "", &tenant, None, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems}");
    let reply_to = settings.email.unwrap().reply_to().unwrap();
    assert_eq!(reply_to.as_str(), "hello@clinic.example");
    no_default["email"]["primary"]["credentials"]
        .as_object_mut()
        .unwrap()
        .shift_remove("fromEmail");
    let mut problems = Problems::default();
    CommunicationSettings::read(no_default, "", &tenant, None, &mut problems);
    assert_eq!(problems.as_slice()[0].pointer, "/email/defaultFrom");
}

#[test]
fn a_senders_address_that_will_not_do_is_refused_at_save_and_read_where_stored() {
    let all = forms();
    let tenant = Tenant::parse("clinic-1").unwrap();
    for (form, address, is_readable) in [
        (0, "=?utf-8?q?hi?=@clinic.example", true),
        (1, "jörg@clinic.example", false),
        (4, "jörg@clinic.example", true),
        (4, "=?utf-8?q?hi?=@clinic.example", true),
    ] {
        let (provider, mut credentials) = all[form].clone();
        credentials["fromEmail"] = json!(address);
        let document = document(provider, &credentials);
        let mut problems = Problems::default();
        CommunicationSettings::read(document.clone(), "", &tenant, None, &mut problems);
        let pointers: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|problem| problem.pointer.as_str())
            .collect();
        assert_eq!(
            pointers,
            ["/email/primary/credentials/fromEmail"],
            "{provider} {address}"
        );
        let stored = CommunicationSettings::read_stored(document, &tenant);
        assert_eq!(stored.is_ok(), is_readable, "{provider} {address}");
    }
    let mut channel = document("smtp", &all[0].1);
    channel["email"]["defaultFrom"] = json!("=?utf-8?q?hi?=@clinic.example");
    let mut problems = Problems::default();
    CommunicationSettings::read(channel.clone(), "", &tenant, None, &mut problems);
    assert_eq!(problems.as_slice()[0].pointer, "/email/defaultFrom");
    assert!(CommunicationSettings::read_stored(channel, &tenant).is_ok());
}
