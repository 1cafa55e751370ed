//! Every form of a file, and what is wrong with one.

use comms_core::Tenant;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Every item: `line clinic document`, or `line ! clinic pointer detail`.
fn read(text: &str, lines: bool) -> Vec<String> {
    // A buffer of a few bytes, as if the file were large.
    let reader = io::BufReader::with_capacity(3, text.as_bytes());
    let mut file = ClinicsFile::new(reader, lines);
    let mut found = Vec::new();
    while let Some(item) = file.next_item().unwrap() {
        found.push(match item {
            Ok(item) => format!("{} {} {}", item.line, item.tenant, item.document),
            Err(refused) => {
                let clinic = refused.clinic_id.unwrap_or_default();
                let problem = &refused.problems[0];
                format!(
                    "{} ! {clinic} {} {}",
                    refused.line, problem.pointer, problem.detail
                )
            }
        });
        assert!(found.len() < 1_000, "it does not end");
    }
    found
}

#[test]
fn an_array_an_object_by_clinic_and_json_lines_are_the_same_clinics() {
    let (a, b) = (
        r#"{"clinicId":"a","settings":{"communicationSettings":{"email":1},"theme":"dark"}}"#,
        r#"{"clinicId":"b","name":"B","communicationSettings":{"email":"[{,\"\\"}}"#,
    );
    let two = ["1 a {\"email\":1}", "2 b {\"email\":\"[{,\\\"\\\\\"}"];
    assert_eq!(read(&format!("[{a},\n{b}]\n"), false), two);
    assert_eq!(read(&format!("{a}\n{b}\n"), false), two);
    assert_eq!(read(&format!("{a}\r\n{b}"), true), two);
    assert_eq!(read(&format!("\u{feff}{a}\n{b}"), false), two);
    let by_clinic = |item: &str| item.replacen(r#""clinicId":"#, r#""id":"#, 1);
    let map = format!("{{\"a\":{},\n\"b\" : {}}}", by_clinic(a), by_clinic(b));
    assert_eq!(read(&map, false), two);
    let map = format!("{{\"a\":{a},\n\"b\" : {b}}}");
    assert_eq!(read(&map, false), two);
}

#[test]
fn an_id_may_be_as_mongo_exports_it() {
    let items = r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"communicationSettings":{}}
        {"_id":"clinic-1","communicationSettings":{}}
        {"_id":{"$oid":"507f1f77bcf86cd799439011"},"clinicId":"clinic-2","communicationSettings":{}}"#;
    assert_eq!(
        read(items, false),
        [
            "1 507f1f77bcf86cd799439011 {}",
            "2 clinic-1 {}",
            "3 clinic-2 {}"
        ]
    );
}

#[test]
fn a_line_that_cannot_be_read_does_not_stop_the_rest_and_nothing_of_it_is_repeated() {
    let lines = [
        r#"{"clinicId":"a","communicationSettings":{}}"#,
        r#"{"clinicId":"planted","communicationSettings":{"password":"planted"#,
        "planted",
        "",
        r#"["planted"]"#,
        r#"{"clinicId":"planted id","communicationSettings":{}}"#,
        r#"{"clinicId":{"planted":1},"communicationSettings":{}}"#,
        r#"{"communicationSettings":{}}"#,
        r#"{"clinicId":"b"}"#,
        r#"{"clinicId":"b","settings":{"communicationSettings":null}}"#,
        r#"{"clinicId":"b","settings":{"communicationSettings":{}},"communicationSettings":{}}"#,
        r#"{"clinicId":"b","clinicId":"planted","communicationSettings":{}}"#,
        r#"{"clinicId":"c","communicationSettings":{}}"#,
    ];
    let found = read(&lines.join("\n"), false);
    let kinds: Vec<_> = found
        .iter()
        .map(|item| item.split(' ').take(4).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        kinds,
        [
            "1 a {}",
            "2 !  ",
            "3 !  ",
            "5 !  ",
            "6 !  /clinicId",
            "7 !  /clinicId",
            "8 !  /clinicId",
            "9 ! b /settings/communicationSettings",
            "10 ! b /settings/communicationSettings",
            "11 ! b /communicationSettings",
            "12 !  ",
            "13 c {}",
        ]
    );
    assert!(!found.join("\n").contains("planted"), "{found:#?}");
}

#[test]
fn an_item_of_an_array_that_cannot_be_read_does_not_stop_the_rest() {
    let found = read(
        "[{\"clinicId\":\"a\",\"communicationSettings\":{}},\n nonsense,\n 1,\n\
         {\"clinicId\":\"b\",\"communicationSettings\":{}}]",
        false,
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[1].starts_with("2 !  "), "{found:#?}");
    assert!(found[2].starts_with("3 !  "), "{found:#?}");
    assert_eq!(found[3], "4 b {}");
}

#[test]
fn a_file_that_is_cut_off_says_so_after_what_it_has() {
    let item = r#"{"clinicId":"a","communicationSettings":{}}"#;
    for whole in [
        format!("[{item},{item}]"),
        format!(r#"{{"a":{item},"a":{item}}}"#),
    ] {
        for cut in 1..whole.len() {
            let found = read(&whole[..cut], false);
            let last = found.last().unwrap();
            assert!(last.contains("was not read from here on"), "{cut} {last}");
            let good = found.iter().filter(|item| item.ends_with(" a {}")).count();
            assert_eq!(good, found.len() - 1, "{cut} {found:?}");
        }
    }
    let found = read(&format!("[{item}] x"), false);
    assert!(
        found[1].contains("must be the end of the file"),
        "{found:?}"
    );
}

#[test]
fn an_item_that_is_too_long_is_passed_over_without_being_kept() {
    let long = json!({"clinicId": "a", "communicationSettings": "x".repeat(MAX_ITEM)});
    let good = json!({"clinicId": "b", "communicationSettings": {}});
    for text in [format!("[{long},{good}]"), format!("{long}\n{good}")] {
        let reader = io::BufReader::new(text.as_bytes());
        let mut file = ClinicsFile::new(reader, false);
        let refused = file.next_item().unwrap().unwrap().unwrap_err();
        assert!(refused.problems[0].detail.contains("longer than"));
        assert!(file.next_item().unwrap().unwrap().is_ok());
        assert!(file.next_item().unwrap().is_none());
        assert_eq!(file.position(), u64::try_from(text.len()).unwrap());
    }
}

#[test]
fn an_item_shows_nothing_of_its_settings_when_it_is_printed() {
    let item = ClinicItem {
        line: 1,
        tenant: Tenant::parse("clinic-1").unwrap(),
        document: json!({"password": "planted"}),
    };
    assert_eq!(format!("{item:?}"), "ClinicItem(clinic-1, …)");
}

proptest! {
    #[test]
    fn reading_anything_ends_and_never_panics(text in "[\\[\\]{}\",:a-c\\\\ \n]{0,60}", lines: bool) {
        read(&text, lines);
    }
}
