//! AUTH PLAIN and AUTH LOGIN.

use super::*;

#[tokio::test]
async fn a_wrong_password_is_provider_down_with_the_servers_code() {
    let world = World::new(
        Options {
            password: "wrong",
            ..Options::default()
        },
        |server| server,
    )
    .await;
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert_eq!(result.unwrap_err().code.unwrap().as_str(), "535 5.7.8");
}

#[tokio::test]
async fn auth_login_is_used_where_plain_is_not_offered() {
    let world = World::plain(|server| server.auth_mechanisms(&["LOGIN"])).await;
    world.send().await.unwrap();
    let world = World::plain(|server| server.auth_mechanisms(&["CRAM-MD5"])).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
}

#[tokio::test]
async fn auth_login_is_a_conversation_of_three_turns() {
    let world = World::plain(|server| server.auth_mechanisms(&["LOGIN"])).await;
    world.send().await.unwrap();
    let said = world.server.transcript_of(1);
    let start = said.iter().position(|line| line == "C: AUTH LOGIN");
    assert_eq!(
        said[start.unwrap()..][..6],
        [
            "C: AUTH LOGIN",
            "S: 334 VXNlcm5hbWU6",
            "C: ***",
            "S: 334 UGFzc3dvcmQ6",
            "C: ***",
            "S: 235 2.7.0 authenticated",
        ]
    );
    let options = Options {
        password: "wrong",
        ..Options::default()
    };
    let world = World::new(options, |server| server.auth_mechanisms(&["LOGIN"])).await;
    let result = world.send().await;
    assert_eq!(result.unwrap_err().code.unwrap().as_str(), "535 5.7.8");
}

#[tokio::test]
async fn a_password_too_long_for_a_command_line_is_given_when_it_is_asked_for() {
    let password = "0123456789".repeat(60);
    let options = Options {
        password: password.clone().leak(),
        ..Options::default()
    };
    let world = World::new(options, |server| {
        server.credentials("clinic-user", password)
    })
    .await;
    world.send().await.unwrap();
    assert_eq!(world.said("AUTH"), ["AUTH PLAIN"]);
}

#[tokio::test]
async fn the_legacy_form_of_the_auth_line_is_understood() {
    let reply = "250-mail.example\n250 AUTH=LOGIN PLAIN";
    let world = World::plain(|server| server.on(Stage::EhloAfterTls, Action::reply(reply))).await;
    world.send().await.unwrap();
    assert_eq!(world.said("AUTH"), ["AUTH PLAIN ***"]);
}
