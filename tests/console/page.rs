//! The console in a real Chromium.

use serde_json::json;

use super::{Fleet, decide, revoke, revoke_users};
use crate::api::{OPERATOR, READER, REVOKER};
use crate::support::browser::Browser;

/// More than a page of the list has, and than anybody reads.
const REVOCATIONS: usize = 5000;

/// With DOORWARD_CONSOLE_PICTURE=FILE it also takes the picture that the documentation shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_for_everybody_and_pauses_for_nobody() {
    let Some(browser) = Browser::find() else { return };
    let fleet = Fleet::start(5).await;
    let first = &fleet.instances[0];
    let on_second = &fleet.instances[1];
    revoke_users(fleet.admin(), REVOCATIONS).await;
    let html = "<img src=/x onerror=\"document.title='owned'\"><b>bold</b>";
    revoke(on_second, &json!({"kind": "session", "id": "0-markup", "reason": html})).await;
    let evil = fleet.tokens.with(json!({"iss": format!("https://evil.test/{html}"), "aud": html}));
    let wrong = fleet.tokens.with(json!({"aud": html}));
    let unnamed = fleet.tokens.with(json!({"sub": "unnamed", "jti": null}));
    assert_eq!(decide(first, "/orders", Some(&unnamed)).await.0, 200);
    for _ in 0..3 {
        for token in [Some(&*evil), Some(&*wrong), None] {
            decide(first, "/orders", token).await;
        }
        decide(first, "/admin/users", Some(&fleet.tokens.of("carol"))).await;
    }
    let told = json!({
        "url": format!("http://{}/console/", fleet.admin()),
        "auth": format!("http://{}/auth/orders", first.http),
        "keys": {"operator": OPERATOR, "reader": READER, "revoker": REVOKER},
        "tokens": {"named": fleet.tokens.of("mallory"), "unnamed": unnamed},
        "revocations": REVOCATIONS + 2,
        "html": html,
        "config": first.dir.path().join("doorward.yaml"),
        "pid": first.process.0.id(),
        "frozen": fleet.instances[4].process.0.id(),
        "picture": std::env::var("DOORWARD_CONSOLE_PICTURE").ok(),
    });
    let script = format!("{}/tests/console/page.mjs", env!("CARGO_MANIFEST_DIR"));
    tokio::task::block_in_place(|| browser.run(&script, &[&told.to_string()]));
}
