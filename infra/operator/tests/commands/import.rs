//! Importing, against a scripted API.

use std::path::PathBuf;

use comms_core::Secret;
use comms_operator::{
    Api, ApiError,
    import::{ImportError, Plan, Report, Step, run},
};
use comms_testkit::{
    http::{HttpServer, Reply},
    tls::TestCa,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What no output may have in it.
const PLANTED: &str = "planted-";

/// A scripted API and a directory for the file.
struct World {
    server: HttpServer,
    directory: TempDir,
    replace: bool,
}

impl World {
    async fn new() -> Self {
        Self {
            server: HttpServer::builder().start().await.unwrap(),
            directory: tempfile::tempdir().unwrap(),
            replace: false,
        }
    }

    async fn replacing() -> Self {
        let mut world = Self::new().await;
        world.replace = true;
        world
    }

    fn answers(&self, method: &str, clinic: &str, reply: Reply) {
        self.server.on(method, &path(clinic), reply);
    }

    fn file(&self, content: &str) -> PathBuf {
        let path = self.directory.path().join("clinics.json");
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn import(&self, content: &str) -> (Result<(), ImportError>, Report) {
        let plan = Plan {
            file: self.file(content),
            api: Some(Api::new(&self.server.url(), &token(), None).unwrap()),
            replace: self.replace,
            rate: 1_000,
        };
        let mut report = Report::default();
        let ended = run(&plan, &mut report, &mut |_| {}).await;
        assert_eq!(self.server.unexpected(), Vec::<String>::new());
        for output in [report.to_string(), format!("{ended:?} {report:?} {plan:?}")] {
            assert!(!output.contains(PLANTED), "{output}");
        }
        (ended, report)
    }

    /// Imports one clinic.
    async fn import_one(&self) -> Report {
        let (ended, report) = self.import(&json!([item("clinic-1")]).to_string()).await;
        ended.unwrap();
        report
    }
}

fn path(clinic: &str) -> String {
    format!("/api/v1/clinics/{clinic}")
}

fn token() -> Secret {
    Secret::new(format!("{PLANTED}token"))
}

fn document() -> Value {
    json!({"email": {
        "primary": {"provider": "smtp", "credentials": {
            "host": "smtp.clinic.example", "port": "587", "secure": "false",
            "user": format!("{PLANTED}user"), "password": format!("{PLANTED}password")}},
        "defaultFrom": "desk@clinic.example"}})
}

fn item(clinic: &str) -> Value {
    json!({"clinicId": clinic, "settings": {"communicationSettings": document()}})
}

/// A problem as the API answers it.
fn problem(status: u16, code: &str, errors: &Value) -> Reply {
    let body = json!({"type": format!("urn:clinic-comms:problem:{code}"), "title": "t", "status": status,
                      "code": code, "detail": "What is wrong.", "errors": errors});
    Reply::json(status, body).content_type("application/problem+json")
}

fn saved(status: u16, version: &str) -> Reply {
    Reply::json(status, json!({"version": 1})).header("etag", version)
}

#[tokio::test]
async fn a_clinic_is_put_where_there_is_none_with_the_token_and_as_the_file_has_it() {
    let world = World::new().await;
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    let report = world.import_one().await;
    assert_eq!(report.imported, ["clinic-1"]);
    assert!(report.is_complete());
    let [request] = world.server.requests().try_into().unwrap();
    assert_eq!(request.header("if-none-match"), Some("*"));
    assert_eq!(request.header("if-match"), None);
    assert_eq!(
        request.header("authorization"),
        Some("Bearer planted-token")
    );
    assert_eq!(
        request.json(),
        json!({"settings": {"communicationSettings": document()}})
    );
}

#[tokio::test]
async fn every_answer_ends_in_its_own_part_of_the_report() {
    let no_errors = json!([]);
    for (reply, expected) in [
        (saved(200, "\"1\""), "imported"),
        (
            problem(412, "precondition_failed", &no_errors),
            "alreadyThere",
        ),
        (problem(409, "conflict", &no_errors), "failed"),
        (problem(400, "malformed_request", &no_errors), "refused"),
        (problem(413, "too_large", &no_errors), "refused"),
        (problem(422, "invalid_request", &no_errors), "refused"),
        (
            Reply::json(413, json!({"message": "Request Entity Too Large"})),
            "refused",
        ),
        (problem(500, "internal", &no_errors), "failed"),
        (Reply::json(418, json!({})), "failed"),
        (
            Reply::new(302).header("location", "http://localhost:1/"),
            "failed",
        ),
    ] {
        let world = World::new().await;
        world.answers("PUT", "clinic-1", reply);
        let report = world.import_one().await;
        let json = serde_json::to_value(&report).unwrap();
        let filled: Vec<_> = json
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, clinics)| {
                clinics
                    .as_array()
                    .is_some_and(|clinics| !clinics.is_empty())
            })
            .map(|(part, _)| part.as_str())
            .collect();
        assert_eq!(filled, [expected], "{report}");
        let good = ["imported", "alreadyThere"].contains(&expected);
        assert_eq!(report.is_complete(), good, "{report}");
        assert_eq!(world.server.requests().len(), 1);
    }
}

#[tokio::test]
async fn what_the_api_refuses_is_reported_with_its_pointers_and_the_line() {
    let world = World::new().await;
    let pointer = "/settings/communicationSettings/email/primary/credentials/caPem";
    let errors = json!([{"pointer": pointer, "detail": "holds no certificate\u{1b}[31m"}]);
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    world.answers("PUT", "clinic-2", problem(422, "invalid_request", &errors));
    let lines = format!("{}\n{}\n", item("clinic-1"), item("clinic-2"));
    let (ended, report) = world.import(&lines).await;
    ended.unwrap();
    let [refused] = &report.refused[..] else {
        panic!("{report}");
    };
    assert_eq!(
        (refused.line, refused.clinic_id.as_deref()),
        (2, Some("clinic-2"))
    );
    assert_eq!(refused.problems[0].pointer, pointer);
    let text = report.to_string();
    assert!(text.contains("line 2, clinic-2"), "{text}");
    assert!(
        text.contains(&format!("{pointer} holds no certificate")),
        "{text}"
    );
    assert!(
        !text.contains('\u{1b}'),
        "nothing of it reaches the terminal's controls"
    );
}

#[tokio::test]
async fn what_is_wrong_in_the_file_is_known_before_anything_is_sent_and_the_rest_is_sent() {
    let world = World::new().await;
    let mut wrong = item("clinic-2");
    let smtp = &mut wrong["settings"]["communicationSettings"]["email"]["primary"]["credentials"];
    smtp["port"] = json!("planted-port");
    smtp["colour"] = json!("planted-colour");
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    world.answers("PUT", "clinic-3", saved(201, "\"1\""));
    let lines = [
        item("clinic-1").to_string(),
        wrong.to_string(),
        "{planted-".to_owned(),
        item("clinic-3").to_string(),
        item("clinic-1").to_string(),
    ];
    let plan = Plan {
        file: world.file(&lines.join("\n")),
        api: Some(Api::new(&world.server.url(), &token(), None).unwrap()),
        replace: false,
        rate: 1_000,
    };
    let mut report = Report::default();
    run(&plan, &mut report, &mut |step| match step {
        Step::Checked { bytes, of, .. } => {
            assert!(bytes <= of);
            assert!(world.server.requests().is_empty(), "it is sending already");
        }
        Step::Sent { bytes, of, .. } => assert!(bytes <= of),
    })
    .await
    .unwrap();
    assert_eq!(report.imported, ["clinic-1", "clinic-3"]);
    let pointers: Vec<_> = report
        .refused
        .iter()
        .map(|refused| {
            let pointers: Vec<_> = refused
                .problems
                .iter()
                .map(|problem| problem.pointer.rsplit('/').next().unwrap())
                .collect();
            (refused.line, pointers.join(" "))
        })
        .collect();
    assert_eq!(
        pointers,
        [
            (2, "port colour".to_owned()),
            (3, String::new()),
            (5, String::new())
        ]
    );
    let text = report.to_string();
    assert!(
        text.contains("this clinic stands on line 1 already"),
        "{text}"
    );
    assert!(!text.contains("planted"), "{text}");
}

#[tokio::test]
async fn the_earlier_systems_names_are_taken_and_sent_as_they_are() {
    let world = World::new().await;
    let settings = json!({
        "email": {"primary": {"provider": "ses", "enabled": "true", "credentials": {
            "region": "eu-central-1", "accessKeyId": "AKIAPLANTEDPLANTED00",
            "secretAccessKey": "planted-secret-key", "fromEmail": "desk@clinic.example"}}},
        "whatsapp": {"primary": {"provider": "meta_business", "credentials": {
            "accessToken": "planted-access-token", "phoneNumberId": "123456789"}}}});
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    let file = json!({"clinic-1": {"communicationSettings": settings}});
    let (ended, report) = world.import(&file.to_string()).await;
    ended.unwrap();
    assert_eq!(report.imported, ["clinic-1"], "{report}");
    let [request] = world.server.requests().try_into().unwrap();
    assert_eq!(
        request.json()["settings"]["communicationSettings"],
        settings
    );
}

#[tokio::test]
async fn replacing_names_the_version_that_it_has_seen() {
    let world = World::replacing().await;
    let none = json!([]);
    for clinic in ["other", "same", "busy"] {
        world.answers("GET", clinic, saved(200, "\"7\""));
    }
    world.answers("GET", "fresh", problem(404, "not_found", &none));
    world.answers("PUT", "other", saved(200, "\"8\""));
    world.answers("PUT", "same", saved(200, "\"7\""));
    world.answers("PUT", "busy", problem(412, "precondition_failed", &none));
    world.answers("PUT", "fresh", saved(201, "\"1\""));
    let all = ["other", "same", "busy", "fresh"].map(item);
    let (ended, report) = world.import(&json!(all).to_string()).await;
    ended.unwrap();
    assert_eq!(report.replaced, ["other"]);
    assert_eq!(report.unchanged, ["same"]);
    assert_eq!(report.imported, ["fresh"]);
    assert_eq!(report.failed[0].clinic_id, "busy");
    let conditions: Vec<_> = world
        .server
        .requests()
        .iter()
        .filter(|request| request.method == "PUT")
        .map(|request| {
            let header = |name| request.header(name).map(str::to_owned);
            (header("if-match"), header("if-none-match"))
        })
        .collect();
    let seven = (Some("\"7\"".to_owned()), None);
    assert_eq!(
        conditions,
        [
            seven.clone(),
            seven.clone(),
            seven,
            (None, Some("*".to_owned()))
        ]
    );
}

#[tokio::test]
async fn what_is_refused_for_now_is_sent_again_after_the_time_that_is_asked_for() {
    let world = World::new().await;
    let none = json!([]);
    let busy = |status| problem(status, "unavailable", &none).header("retry-after", "0");
    for status in [429, 503, 502, 504] {
        world.answers("PUT", "clinic-1", busy(status));
    }
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    let report = world.import_one().await;
    assert_eq!(report.imported, ["clinic-1"]);
    assert_eq!(world.server.requests().len(), 5);
}

#[tokio::test]
async fn what_stays_refused_is_given_up_and_the_next_clinic_has_its_turn() {
    let world = World::new().await;
    let busy = problem(503, "unavailable", &json!([])).header("retry-after", "0");
    world.server.always("PUT", &path("clinic-1"), busy);
    world.answers("PUT", "clinic-2", saved(201, "\"1\""));
    let all = json!([item("clinic-1"), item("clinic-2")]);
    let (ended, report) = world.import(&all.to_string()).await;
    ended.unwrap();
    assert_eq!(report.failed[0].error, "the API answered 503, 6 times");
    assert_eq!(report.imported, ["clinic-2"]);
    assert_eq!(world.server.requests().len(), 7);
}

#[tokio::test]
async fn a_token_that_is_wrong_for_one_ends_the_import_at_once() {
    for status in [401, 403] {
        let world = World::new().await;
        world.answers("PUT", "clinic-1", saved(201, "\"1\""));
        let refused = Reply::json(status, json!({"message": "Unauthorized"}));
        world.answers("PUT", "clinic-2", refused);
        let all = json!([item("clinic-1"), item("clinic-2"), item("clinic-3")]);
        let (ended, report) = world.import(&all.to_string()).await;
        let error = ended.unwrap_err();
        assert!(
            matches!(error, ImportError::Api(ApiError::Unauthorized(s)) if s == status),
            "{error}"
        );
        assert_eq!(report.imported, ["clinic-1"]);
        assert_eq!(world.server.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_address_that_is_not_the_apis_ends_the_import_at_once() {
    for replace in [false, true] {
        let mut world = World::new().await;
        world.replace = replace;
        let method = if replace { "GET" } else { "PUT" };
        let nothing = Reply::json(404, json!({"message": "Not Found"}));
        world.answers(method, "clinic-1", nothing);
        let all = json!([item("clinic-1"), item("clinic-2")]);
        let (ended, _) = world.import(&all.to_string()).await;
        let error = ended.unwrap_err();
        assert!(
            matches!(error, ImportError::Api(ApiError::NoSuchRoute)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_import_that_is_run_again_leaves_what_is_there_and_goes_on_with_the_rest() {
    let world = World::new().await;
    let all = json!([item("clinic-1"), item("clinic-2")]).to_string();
    let failed = problem(500, "internal", &json!([]));
    world.answers("PUT", "clinic-1", saved(201, "\"1\""));
    world.answers("PUT", "clinic-2", failed);
    let (_, report) = world.import(&all).await;
    assert!(!report.is_complete());
    let there = problem(412, "precondition_failed", &json!([]));
    world.answers("PUT", "clinic-1", there);
    world.answers("PUT", "clinic-2", saved(201, "\"1\""));
    let (_, report) = world.import(&all).await;
    assert_eq!(report.already_there, ["clinic-1"]);
    assert_eq!(report.imported, ["clinic-2"]);
    assert!(report.is_complete(), "{report}");
}

#[tokio::test]
async fn the_api_is_reached_by_tls_under_an_authority_of_its_own() {
    let ca = TestCa::new();
    let server = HttpServer::builder()
        .tls(ca.server_config(&["localhost"]))
        .start()
        .await
        .unwrap();
    server.on("PUT", &path("clinic-1"), saved(201, "\"1\""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clinics.jsonl");
    std::fs::write(&file, item("clinic-1").to_string()).unwrap();
    let roots = ca.pem();
    let api = Api::new(&server.url(), &token(), Some(&roots)).unwrap();
    let plan = Plan {
        file,
        api: Some(api),
        replace: false,
        rate: 1_000,
    };
    let mut report = Report::default();
    run(&plan, &mut report, &mut |_| {}).await.unwrap();
    assert_eq!(report.imported, ["clinic-1"], "{report}");
}

#[test]
fn a_token_goes_in_clear_to_this_machine_only_and_is_never_printed() {
    for good in [
        "https://api.example.com",
        "https://api.example.com/",
        "https://api.example.com/base/api/v1/",
        "http://127.0.0.1:3000",
        "http://[::1]:3000/api/v1",
        "http://localhost:3000",
    ] {
        let api = Api::new(good, &token(), None).unwrap();
        let shown = format!("{api:?}");
        assert!(shown.contains("/api/v1/clinics/"), "{shown}");
        assert!(!shown.contains("/api/v1/api"), "{shown}");
        assert!(!shown.contains(PLANTED), "{shown}");
    }
    for bad in [
        "",
        "api.example.com",
        "http://api.example.com",
        "http://localhost.example.com",
        "http://192.168.1.2:3000",
        "ftp://api.example.com",
        "https://user:password@api.example.com",
        "https://api.example.com?x=1",
    ] {
        assert_eq!(
            Api::new(bad, &token(), None).unwrap_err(),
            ApiError::Url,
            "{bad}"
        );
    }
    for bad in ["", "two words", "line\nfeed", "ümlaut"] {
        let error = Api::new(
            "https://api.example.com",
            &Secret::new(bad.to_owned()),
            None,
        );
        assert_eq!(error.unwrap_err(), ApiError::Token);
    }
}
