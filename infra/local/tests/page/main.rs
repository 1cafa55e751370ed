//! The local stack's pages in a headless Chromium: `just page`.

#[path = "../running/mod.rs"]
mod running;

mod driver;
mod world;

use comms_testkit::smtp::{Action, SmtpServer, Stage, TlsMode};
use comms_testkit::tls::TestCa;
use driver::{Browser, Result, key};
use running::FREE;
use serde_json::{Value, json};
use world::World;

/// What must never be done with a text.
const SCRIPT: &str =
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">";

/// A condition: that some row of the list has all of these texts.
fn row(texts: &[&str]) -> String {
    let texts = json!(texts);
    format!(
        "[...document.querySelectorAll('#list button')].some((row) => {texts}.every((text) => row.textContent.includes(text)))"
    )
}

/// A condition: that an element's text has all of these in it.
fn text(selector: &str, texts: &[&str]) -> String {
    let texts = json!(texts);
    format!(
        "{texts}.every((text) => document.querySelector('{selector}').innerText.includes(text))"
    )
}

/// Fails when the page is wider than the screen, or anything of it is.
async fn nothing_overflows(browser: &Browser) -> Result<()> {
    let wide = browser
        .value(
            "[document.documentElement, ...document.querySelectorAll('body, header, main, section, aside, dialog, .inside, #rows, #list button')]
               .filter((node) => node.getClientRects().length && (node.scrollWidth > node.clientWidth + 1 || node.getBoundingClientRect().right > innerWidth + 1))
               .map((node) => node.tagName + '#' + node.id + ' ' + node.scrollWidth + ' > ' + node.clientWidth)",
        )
        .await?;
    if wide == json!([]) {
        Ok(())
    } else {
        Err(format!("wider than its place: {wide}").into())
    }
}

#[allow(
    clippy::too_many_lines,
    reason = "one stack and one browser, looked at from all sides: starting them takes longer than all of it"
)]
#[tokio::test]
async fn the_pages_show_what_happens_while_it_happens() -> Result<()> {
    let home = tempfile::tempdir()?;
    let world = World::start(home.path(), FREE)?;
    let browser = Browser::start().await?;
    let deliveries = format!("{}/deliveries", world.pages);
    browser.screen(1360, 860, false).await?;

    // Nothing yet: the page says how to change that.
    browser.go(&deliveries).await?;
    let curl = format!("{}/communications", world.api);
    browser
        .until(&text("#none", &["No deliveries yet", &curl]))
        .await?;
    browser.until(&text("#state", &["live"])).await?;
    browser
        .until(&text("#health", &["No clinic has settings yet"]))
        .await?;
    browser
        .until(&text("#queues", &["urgent", "dead letters"]))
        .await?;
    browser.picture("empty.png").await?;

    // One that succeeds, one that is refused, one that goes by the fallback. Nobody reloads.
    browser.value("window.loadedOnce = true").await?;
    let ca = TestCa::new();
    let refusing = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .credentials("user", "password")
        .always(Stage::Rcpt, Action::reply("550 5.1.1 no such user"))
        .start()
        .await;
    let refusing_settings = json!({
        "host": "127.0.0.1", "port": refusing.port(), "secure": false, "user": "user", "password": "password",
        "caPem": ca.pem(),
    });
    let mut locked_out = world.inbox.clone();
    locked_out["password"] = json!("wrong");
    world.save("clinic-works", &[&world.inbox]).await?;
    world.save("clinic-refused", &[&refusing_settings]).await?;
    world
        .save("clinic-fallback", &[&locked_out, &world.inbox])
        .await?;
    world
        .send("clinic-works", "queued", SCRIPT, "patient@example.com")
        .await?;
    browser
        .until(&row(&[
            "clinic-works",
            "email",
            "sent",
            "p***@e***.com",
            "smtp",
            "ms",
        ]))
        .await?;
    world
        .send(
            "clinic-refused",
            "immediate",
            "Reminder",
            "nobody@example.com",
        )
        .await?;
    browser
        .until(&row(&[
            "clinic-refused",
            "failed",
            "REJECTED",
            "n***@e***.com",
        ]))
        .await?;
    world
        .send(
            "clinic-fallback",
            "immediate",
            "Reminder",
            "patient@example.com",
        )
        .await?;
    browser
        .until(&row(&[
            "clinic-fallback",
            "sent",
            "smtp",
            "via fallback[0]",
        ]))
        .await?;
    assert_eq!(browser.value("window.loadedOnce").await?, true);

    // The panels beside the list.
    let down = [
        "clinic-fallback",
        "down",
        "since",
        "last error unauthenticated",
        "next probe",
        "1 of 4 not healthy",
    ];
    browser.until(&text("#health", &down)).await?;
    for (id, expected) in [
        ("sent-all", "2"),
        ("failed-all", "1"),
        ("deferred-all", "0"),
    ] {
        browser.until(&text(&format!("#{id}"), &[expected])).await?;
    }
    browser.until(&text("#p99", &["s"])).await?;
    browser
        .until("document.querySelector('#bars-sent').getAttribute('d').startsWith('M')")
        .await?;
    browser.picture("light.png").await?;

    // By the keyboard alone: into the list, the newest delivery's attempts, and back.
    for _ in 0..20 {
        if browser
            .value("document.activeElement.closest('#list') !== null")
            .await?
            == true
        {
            break;
        }
        browser.press(key::TAB).await?;
    }
    let focus = "document.activeElement.dataset.key";
    let newest = browser.value(focus).await?;
    browser.press(key::ENTER).await?;
    browser.until("document.querySelector('#one').open").await?;
    let attempts = [
        "1. smtp",
        "primary",
        "failed",
        "unauthenticated",
        "code 535",
        "provider_down",
        "2. smtp",
        "fallback[0]",
        "accepted",
        "ms",
    ];
    browser.until(&text("#attempts", &attempts)).await?;
    browser
        .until(&text(
            "#facts",
            &[
                "clinic-fallback",
                "via fallback[0]",
                "Message id",
                "Request",
            ],
        ))
        .await?;
    browser.picture("one-light.png").await?;
    let answer = browser
        .until("fetch(document.querySelector('#answer').href).then((answer) => answer.json())")
        .await?;
    assert_eq!(answer["deliveries"][0]["status"], "sent", "{answer}");
    assert_eq!(
        answer["deliveries"][0]["attempts"][1]["position"],
        "fallback[0]"
    );
    browser.press(key::ESCAPE).await?;
    browser
        .until("!document.querySelector('#one').open")
        .await?;
    assert_eq!(
        browser.value(focus).await?,
        newest,
        "the focus is where it was"
    );
    browser.press(key::DOWN).await?;
    browser.press(key::ENTER).await?;
    browser
        .until(&text("#attempts", &["1. smtp", "550 5.1.1", "final"]))
        .await?;
    browser.press(key::ESCAPE).await?;

    // The filters, by state and by clinic.
    browser.click("label[for=state-failed]").await?;
    browser
        .until("document.querySelectorAll('#list li').length === 1")
        .await?;
    browser.until(&row(&["clinic-refused"])).await?;
    browser
        .until(&text("#states", &["all 3", "sent 2", "failed 1"]))
        .await?;
    browser.click("#clinic option[value=clinic-works]").await?;
    browser.until(&text("#no-match", &["None of them"])).await?;
    browser.click("#all").await?;
    browser
        .until("document.querySelectorAll('#list li').length === 3")
        .await?;

    // What somebody wrote into the table is text, whatever it says.
    let attempt = json!([{"provider": SCRIPT, "position": SCRIPT, "outcome": SCRIPT, "kind": SCRIPT, "code": SCRIPT, "detail": SCRIPT}]);
    world
        .write(json!({
            "pk": {"S": "f".repeat(32)}, "sk": {"S": format!("delivery#{}", "f".repeat(32))},
            "clinicId": {"S": SCRIPT}, "channel": {"S": SCRIPT}, "recipient": {"S": SCRIPT},
            "status": {"S": SCRIPT}, "reason": {"S": SCRIPT}, "provider": {"S": SCRIPT},
            "createdAt": {"S": "2999-01-01T00:00:00Z"}, "attempts": {"S": attempt.to_string()},
        }))
        .await?;
    browser
        .until(&row(&[SCRIPT, "not known: <script>"]))
        .await?;
    browser.click("#list button").await?;
    browser.until(&text("#attempts", &[SCRIPT])).await?;
    assert_eq!(
        browser
            .value("document.querySelectorAll('main img, main script, dialog img').length")
            .await?,
        0
    );
    assert_eq!(
        browser.value("document.title").await?,
        "Deliveries · clinic-comms"
    );
    browser.press(key::ESCAPE).await?;

    // A small screen, and the dark.
    for (name, width, height, is_dark) in [
        ("dark", 1360, 860, true),
        ("small-light", 375, 812, false),
        ("small-dark", 375, 812, true),
    ] {
        browser.screen(width, height, is_dark).await?;
        browser.go(&deliveries).await?;
        browser.until(&row(&["clinic-works", "sent"])).await?;
        browser
            .until(&text("#health", &["clinic-fallback"]))
            .await?;
        browser.until(&text("#queues", &["urgent"])).await?;
        nothing_overflows(&browser).await?;
        browser.picture(&format!("{name}.png")).await?;
        browser
            .value("document.querySelector('#deliveries').scrollIntoView()")
            .await?;
        browser.picture(&format!("{name}-list.png")).await?;
        browser.click("#list li:nth-child(2) button").await?;
        browser.until(&text("#attempts", &["2. smtp"])).await?;
        nothing_overflows(&browser).await?;
        browser.picture(&format!("{name}-one.png")).await?;
    }

    // The inbox has what was sent, and its subject is text as well.
    for (name, width, height, is_dark) in
        [("inbox-small", 375, 812, false), ("inbox", 1360, 860, true)]
    {
        browser.screen(width, height, is_dark).await?;
        browser.go(&format!("{}/inbox", world.pages)).await?;
        browser
            .until("document.querySelectorAll('#list button').length === 2")
            .await?;
        browser
            .until(&text("#state", &["live"]).replace("innerText", "textContent"))
            .await?;
        nothing_overflows(&browser).await?;
        browser.click("#list li:last-child button").await?;
        browser.until(&text("#subject", &[SCRIPT])).await?;
        browser
            .until(&text("#panel", &["See you on Monday."]))
            .await?;
        nothing_overflows(&browser).await?;
        browser.picture(&format!("{name}.png")).await?;
    }
    assert!(
        !browser
            .value("document.title")
            .await?
            .to_string()
            .contains("owned")
    );
    browser.click("header nav a:last-child").await?;
    browser.until("location.pathname === '/deliveries'").await?;
    assert_eq!(browser.console().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn ten_thousand_deliveries_are_a_list_of_few_rows_that_any_of_them_is_reached_in()
-> Result<()> {
    let home = tempfile::tempdir()?;
    let world = World::start(home.path(), FREE)?;
    let browser = Browser::start().await?;
    browser.screen(1360, 860, false).await?;
    browser.go(&format!("{}/deliveries", world.pages)).await?;
    browser
        .until(&text("#none", &["No deliveries yet"]))
        .await?;
    for request in 0..20 {
        let planned: Vec<Value> = (0..500)
            .map(|number| {
                json!({"M": {
                    "id": {"S": format!("{request:016x}{number:016x}")}, "channel": {"S": "email"},
                    "recipient": {"S": "p***@e***.com"},
                }})
            })
            .collect();
        let clinic = format!("clinic-{}", request % 4);
        world
            .write(json!({
                "pk": {"S": format!("{request:032x}")}, "sk": {"S": "request"}, "clinicId": {"S": clinic},
                "acceptedAt": {"S": format!("2026-01-01T10:00:{request:02}Z")}, "deliveries": {"L": planned},
            }))
            .await?;
    }
    browser
        .until(&text("#count", &["10,000 deliveries"]))
        .await?;
    assert_eq!(
        browser
            .value("document.querySelectorAll('#list li').length < 60")
            .await?,
        true
    );
    // The newest request is the first, and the end of the list is the oldest one.
    let key_of = |place| format!("document.querySelector('#list li:{place} button').dataset.key");
    let first = browser.value(&key_of("first-child")).await?;
    assert_eq!(first, format!("{:032x}/{:016x}{:016x}", 19, 19, 0));
    browser.click("#list li:first-child button").await?;
    browser.until("document.querySelector('#one').open").await?;
    browser.until(&text("#attempts", &["None yet"])).await?;
    browser.press(key::ESCAPE).await?;
    browser
        .until("document.activeElement.closest('#list') !== null")
        .await?;
    browser.press(key::END).await?;
    let last = format!("{:032x}/{:016x}{:016x}", 0, 0, 499);
    browser
        .until(&format!("document.activeElement.dataset.key === '{last}'"))
        .await?;
    // A key pressed before the page has heard that the dialog was closed counts all the same.
    browser.click("#list li:last-child button").await?;
    browser.until("document.querySelector('#one').open").await?;
    let home = browser
        .until(
            "new Promise((done) => {
               const dialog = document.querySelector('#one');
               dialog.addEventListener('close', () => done(document.activeElement.dataset.key));
               dialog.close();
               const home = new KeyboardEvent('keydown', { key: 'Home', bubbles: true, cancelable: true });
               document.activeElement.dispatchEvent(home);
             })",
        )
        .await?;
    assert_eq!(home, first);
    browser.press(key::END).await?;
    browser
        .until(&format!("document.activeElement.dataset.key === '{last}'"))
        .await?;
    assert_eq!(
        browser
            .value("document.querySelectorAll('#list li').length < 60")
            .await?,
        true
    );
    browser.picture("many.png").await?;

    // One more comes in above, and what is looked at stays where it is.
    let place =
        format!("document.querySelector('[data-key=\"{last}\"]').getBoundingClientRect().top");
    let before = browser.value(&place).await?;
    world
        .write(json!({
            "pk": {"S": "e".repeat(32)}, "sk": {"S": format!("delivery#{}", "e".repeat(32))},
            "clinicId": {"S": "clinic-new"}, "channel": {"S": "email"}, "recipient": {"S": "n***@e***.com"},
            "status": {"S": "sending"}, "createdAt": {"S": "2026-01-01T11:00:00Z"},
        }))
        .await?;
    browser.until(&text("#states", &["sending 1"])).await?;
    assert_eq!(browser.value(&place).await?, before);
    assert_eq!(
        browser.value("document.activeElement.dataset.key").await?,
        last
    );
    assert_eq!(browser.console().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn home_page_says_what_there_is_and_how_it_does() -> Result<()> {
    let home = tempfile::tempdir()?;
    let world = World::start(home.path(), FREE)?;
    world.save("clinic-works", &[&world.inbox]).await?;
    let browser = Browser::start().await?;
    for (name, width, height, is_dark) in
        [("home-small", 375, 812, true), ("home", 1360, 860, false)]
    {
        browser.screen(width, height, is_dark).await?;
        browser.go(&world.pages).await?;
        let health = text("#providers", &["clinic-works", "smtp, email", "untried"]);
        browser.until(&health).await?;
        browser
            .until(&text("#settings", &["has no settings"]))
            .await?;
        browser
            .until(&text("#queues", &["normal", "urgent"]))
            .await?;
        nothing_overflows(&browser).await?;
        browser.picture(&format!("{name}.png")).await?;
    }
    browser.click("header nav a:nth-child(2)").await?;
    browser.until("location.pathname === '/inbox'").await?;
    assert_eq!(browser.console().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_page_finds_a_stack_again_that_was_started_anew() -> Result<()> {
    let home = tempfile::tempdir()?;
    let world = World::start(home.path(), FREE)?;
    let address = world.pages.trim_start_matches("http://").to_owned();
    let browser = Browser::start().await?;
    browser.go(&format!("{}/deliveries", world.pages)).await?;
    browser.until(&text("#state", &["live"])).await?;
    world.save("clinic-works", &[&world.inbox]).await?;
    browser
        .until(&text("#health", &["clinic-works", "healthy"]))
        .await?;
    drop(world.stack);
    browser.until(&text("#state", &["not connected"])).await?;
    let _world = World::start(home.path(), &address)?;
    browser.until(&text("#state", &["live"])).await?;
    browser
        .until(&text("#health", &["No clinic has settings yet"]))
        .await?;
    Ok(())
}
