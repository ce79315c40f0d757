//! Issuers that are split, narrowed, renamed in steps, or named otherwise by another instance.

use serde_json::json;

use super::{IN_FORCE, REFUSED, is_held, reloads, revoked_of};
use crate::api::{admin_keys, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

pub(super) const X: &str = doorward::dev::ISSUER;
pub(super) const Y: &str = "https://y.test";

/// A configuration with these issuers: the text between the braces of each, without audiences and keys.
pub(super) fn config(tokens: &Tokens, store: &str, issuers: &[&str]) -> String {
    let rest = format!("audiences: [{}], keys: {{jwks: {}}}", doorward::dev::AUDIENCE, tokens.issuer.jwks());
    let issuers: Vec<_> = issuers.iter().map(|issuer| format!("  - {{{issuer}, {rest}}}")).collect();
    let issuers = issuers.join("\n");
    format!("revocation: {{store: {store}}}\nissuers:\n{issuers}\n{}", admin_keys())
}

pub(super) fn in_redis(redis: &RedisServer) -> String {
    format!("redis, redis: {{url: \"{}\"}}", redis.url())
}

pub(super) const IN_A_FILE: &str = "embedded, embedded: {path: DIR/revocations.redb}";

/// A configuration as it was written for this process, with other issuers.
pub(super) fn next(doorward: &Doorward, tokens: &Tokens, store: &str, issuers: &[&str]) -> String {
    let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
    let listen = text.lines().find(|line| line.starts_with("listen:")).unwrap_or_default();
    let dir = doorward.dir.path().display().to_string();
    format!("{listen}\n{}", config(tokens, store, issuers).replace("DIR/", &format!("{dir}/")))
}

/// Reloads these issuers: in force, or refused for a reason that has all of these texts.
pub(super) async fn changes(doorward: &Doorward, text: &str, refused_for: &[&str], dead: &[String]) {
    doorward.log.lock().unwrap().clear();
    reloads(doorward, text, if refused_for.is_empty() { IN_FORCE } else { REFUSED }, dead).await;
    for text in refused_for {
        doorward.logs(text).await;
    }
}

pub(super) async fn restarted(doorward: &mut Doorward, text: &str) {
    assert_eq!(doorward.stop().await, Some(0));
    let dir = std::mem::replace(&mut doorward.dir, crate::support::TempDir::new());
    *doorward = Doorward::launch_in(dir, text).await;
}

pub(super) async fn all_are_refused(doorward: &Doorward, dead: &[String]) {
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    for token in dead {
        eventually("it is refused", || async { reason(&checks, token).await == "revoked" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_split_only_with_its_revocations() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let both = format!("name: main, issuer: [\"{X}\", \"{Y}\"]");
        let (main, other) = (format!("name: main, issuer: \"{X}\""), format!("name: other, issuer: \"{Y}\""));
        let carrying = format!("{other}, formerly: [main]");
        let mut doorward = Doorward::start(&config(&tokens, store, &[&both])).await;
        let older =
            if store == IN_A_FILE { None } else { Some(Doorward::start(&config(&tokens, store, &[&both])).await) };
        let mut dead = revoked_of(&tokens, &doorward, "main", Y).await;
        let text = |doorward: &Doorward, issuers: &[&str]| next(doorward, &tokens, store, issuers);
        let named = ["issuers[1].name", "`main`", "`other`", Y, "formerly: [main]", "accept_loss"];
        changes(&doorward, &text(&doorward, &[&main, &other]), &named, &dead).await;
        changes(&doorward, &text(&doorward, &[&other]), &["issuers[0].name", "formerly: [main]"], &dead).await;
        changes(&doorward, &text(&doorward, &[&main, &carrying]), &[], &dead).await;
        // Revocations under the remaining name apply to both issuers, and those under the other name also to instances
        // that are not configured with it.
        dead.push(tokens.with(json!({"iss": Y, "sub": "carol"})));
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "main", "id": "carol"})).await.status, 201);
        dead.push(tokens.with(json!({"iss": Y, "sub": "dave"})));
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "other", "id": "dave"})).await.status, 201);
        all_are_refused(&doorward, &dead).await;
        if let Some(mut older) = older {
            all_are_refused(&older, &dead).await;
            // Its log is complete, so this instance may start again.
            restarted(&mut older, &config(&tokens, store, &[&both])).await;
            all_are_refused(&older, &dead).await;
            assert_eq!(older.stop().await, Some(0));
        }
        // Revocations under the remaining name still apply.
        changes(&doorward, &text(&doorward, &[&main, &other]), &["formerly: [main]"], &dead).await;
        restarted(&mut doorward, &config(&tokens, store, &[&main, &other])).await;
        is_held(&doorward, "formerly: [main]", &tokens.of("erin")).await;
        restarted(&mut doorward, &config(&tokens, store, &[&main, &carrying])).await;
        all_are_refused(&doorward, &dead).await;
        // Both parts get new names.
        let renamed = [
            format!("name: one, issuer: \"{X}\", formerly: [main]"),
            format!("name: two, issuer: \"{Y}\", formerly: [main, other]"),
        ];
        changes(&doorward, &text(&doorward, &[&renamed[0], &renamed[1]]), &[], &dead).await;
        let meant = text(&doorward, &[&main, &other]).replace("{store:", "{accept_loss: true, store:");
        changes(&doorward, &meant, &[], &[]).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &dead[2]).await, "ok", "the loss is meant");
        // The loss is accepted once: it is not reported again.
        changes(&doorward, &text(&doorward, &[&main, &other]), &[], &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_out_only_with_its_revocations() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let template = "issuer: \"https://login.test/{tenant}/v2\"";
    let main = |tenants: &str| format!("name: main, {template}, tenants: [{tenants}]");
    let exact = "name: acme, issuer: \"https://login.test/t/v2\"";
    let moved = format!("name: acme, {template}, tenants: [t], formerly: [main]");
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let doorward = Doorward::start(&config(&tokens, store, &[&main("t, u")])).await;
        let of = |claims: serde_json::Value| {
            let mut all = json!({"iss": "https://login.test/t/v2", "tid": "t"});
            all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
            tokens.with(all)
        };
        let dead = vec![of(json!({"sid": "gone"})), of(json!({"sub": "bob"}))];
        let text = |issuers: &[&str]| next(&doorward, &tokens, store, issuers);
        // Removing a tenant that was not accepted loses no revocations.
        let new = format!("name: new, {template}, tenants: [w]");
        assert_eq!(revoke(&doorward, &json!({"kind": "session", "issuer": "main", "id": "gone"})).await.status, 201);
        changes(&doorward, &text(&[&main("t, u"), &new]), &[], &dead[..1]).await;
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "main", "id": "t|bob"})).await.status, 201);
        for issuers in [vec![exact], vec![&*main("u"), exact]] {
            let at = format!("issuers[{}].name", issuers.len() - 1);
            changes(&doorward, &text(&issuers), &[&at, "`main`", "`acme`", "formerly: [main]"], &dead).await;
        }
        // Users are named with their tenant there, and without it here.
        let carrying = format!("{exact}, formerly: [main]");
        changes(&doorward, &text(&[&carrying]), &["issuers[0].issuer", "keep the `{tenant}`"], &dead).await;
        changes(&doorward, &text(&[&main("u"), &moved]), &[], &dead).await;
        changes(&doorward, &text(&[&moved]), &[], &dead).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_several_steps_is_judged_as_one() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let main = |iss: &str| format!("name: main, issuer: {iss}");
        let (first, last) = (main(&format!("\"{X}\"")), main(&format!("\"{Y}\"")));
        let mut doorward = Doorward::start(&config(&tokens, store, &[&first])).await;
        let dead = revoked_of(&tokens, &doorward, "main", X).await;
        let text = |doorward: &Doorward, issuers: &[&str]| next(doorward, &tokens, store, issuers);
        changes(&doorward, &text(&doorward, &[&main(&format!("[\"{X}\", \"{Y}\"]"))]), &[], &dead).await;
        changes(&doorward, &text(&doorward, &[&last]), &[], &[]).await;
        let other = format!("name: other, issuer: \"{X}\"");
        let named = ["issuers[1].name", X, "`main`", "`other`", "formerly: [main]"];
        changes(&doorward, &text(&doorward, &[&last, &other]), &named, &[]).await;
        // A start with the reloaded configuration succeeds, and remembers the steps of other processes.
        restarted(&mut doorward, &config(&tokens, store, &[&last])).await;
        doorward.ready().await;
        changes(&doorward, &text(&doorward, &[&last, &other]), &named, &[]).await;
        restarted(&mut doorward, &config(&tokens, store, &[&last, &other])).await;
        is_held(&doorward, "formerly: [main]", &tokens.of("erin")).await;
        let carrying = format!("{other}, formerly: [main]");
        restarted(&mut doorward, &config(&tokens, store, &[&last, &carrying])).await;
        all_are_refused(&doorward, &dead).await;
    }
}

/// An accepted step settles its own difference only.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_changes_a_claim_hides_no_name() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let mut doorward =
            Doorward::start(&config(&tokens, store, &[&format!("name: main, issuer: [\"{X}\", \"{Y}\"]")])).await;
        let dead = vec![tokens.with(json!({"iss": Y, "sub": "bob"}))];
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 201);
        let text = |doorward: &Doorward, issuers: &[&str]| next(doorward, &tokens, store, issuers);
        // No session is revoked.
        let main = format!("name: main, issuer: \"{X}\", claims: {{session_id: s}}");
        changes(&doorward, &text(&doorward, &[&main]), &[], &[]).await;
        let other = format!("name: other, issuer: \"{Y}\", claims: {{session_id: s}}");
        changes(&doorward, &text(&doorward, &[&main, &other]), &["issuers[1].name", "formerly: [main]"], &[]).await;
        // Sessions that are revoked since go by the claim of now, here and after a restart.
        assert_eq!(revoke(&doorward, &json!({"kind": "session", "issuer": "main", "id": "s-1"})).await.status, 201);
        changes(&doorward, &format!("{}# Changed.\n", text(&doorward, &[&main])), &[], &[]).await;
        restarted(&mut doorward, &config(&tokens, store, &[&main])).await;
        doorward.ready().await;
        changes(&doorward, &text(&doorward, &[&main, &other]), &["issuers[1].name", "formerly: [main]"], &[]).await;
        let carrying = format!("{other}, formerly: [main]");
        changes(&doorward, &text(&doorward, &[&main, &carrying]), &[], &[]).await;
        all_are_refused(&doorward, &dead).await;
    }
}

/// Others may revoke under the name and cannot be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_changed_while_the_store_is_away() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let store = format!("redis, redis: {{url: \"redis://127.0.0.1:{}\"}}", proxy.port);
    let named = |name: &str| format!("name: {name}, issuer: \"{X}\"");
    let doorward = Doorward::start(&config(&tokens, &store, &[&named("main")])).await;
    let text = |issuers: &[&str]| next(&doorward, &tokens, &store, issuers);
    proxy.refuse();
    changes(&doorward, &text(&[&named("prod")]), &["issuers[0].name", "formerly: [main]"], &[]).await;
    // Nor could others see the new one.
    let carried = text(&[&format!("{}, formerly: [main]", named("prod"))]);
    changes(&doorward, &carried, &["cannot be noted"], &[]).await;
    changes(&doorward, &format!("{}# The same issuers.\n", text(&[&named("main")])), &[], &[]).await;
    proxy.heal();
    eventually("it decides", || async {
        reason(&Checks::connect(&doorward.check).await, &tokens.of("alice")).await == "ok"
    })
    .await;
    changes(&doorward, &carried, &[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_iss_has_not_two_names_in_two_instances() {
    let tokens = Tokens::new();
    for (one, other) in [("main", "prod"), ("prod", "main")] {
        let redis = RedisServer::start(&[]).await;
        let store = in_redis(&redis);
        let named = |name: &str| config(&tokens, &store, &[&format!("name: {name}, issuer: \"{X}\"")]);
        let (mut first, cure) = (Doorward::start(&named(one)).await, format!("formerly: [{one}]"));
        // There are no revocations yet; a new one of the first instance would not be applied by the second.
        let waiting = Doorward::launch(&named(other)).await;
        is_held(&waiting, &cure, &tokens.of("alice")).await;
        let second = Doorward::start(&named(one)).await;
        let (from, to) = (format!("name: {one},"), format!("name: {other},"));
        let text = std::fs::read_to_string(second.dir.path().join("doorward.yaml")).unwrap();
        changes(&second, &text.replace(&from, &to), &["issuers[0].name", &cure], &[]).await;
        let claims = text.replace(&from, &format!("{from} claims: {{user_id: email}},"));
        changes(&second, &claims, &["issuers[0].claims.user_id"], &[]).await;
        changes(&second, &text.replace(&from, &format!("{to} {cure},")), &[], &[]).await;
        let mut dead = revoked_of(&tokens, &first, one, X).await;
        all_are_refused(&second, &dead).await;
        dead.extend(revoked_of(&tokens, &second, other, X).await);
        all_are_refused(&first, &dead).await;
        assert_eq!(first.get("/readyz").await.0, 200);
        assert!(
            !first.logged("names_differ") && !first.logged("issuers' names"),
            "what it lacks is written for it, too"
        );
        assert_eq!(first.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_free_when_its_last_instance_ended_and_nothing_lives() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let named = |name: &str| config(&tokens, &store, &[&format!("name: {name}, issuer: \"{X}\"")]);
    let mut first = Doorward::start(&named("main")).await;
    let second = Doorward::launch(&named("prod")).await;
    is_held(&second, "formerly: [main]", &tokens.of("alice")).await;
    assert_eq!(first.stop().await, Some(0));
    second.ready().await;
    let text = std::fs::read_to_string(second.dir.path().join("doorward.yaml")).unwrap();
    changes(&second, &text.replace("name: prod,", "name: main,"), &[], &[]).await;
    assert_eq!(reason(&Checks::connect(&second.check).await, &tokens.of("alice")).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_and_a_restart_keep_how_far_tokens_are_dated_ahead() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let (old, new) = (format!("name: dev, issuer: \"{X}\""), format!("name: shop, issuer: \"{X}\", formerly: [dev]"));
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let mut doorward = Doorward::start(&config(&tokens, store, &[&old])).await;
        let other =
            if store == IN_A_FILE { None } else { Some(Doorward::start(&config(&tokens, store, &[&new])).await) };
        let ahead = |user: &str| tokens.with(json!({"sub": user, "iat": now() + 28, "exp": now() + 600}));
        let users = ["alice", "bob", "carol"];
        let dated: Vec<_> = users.iter().map(|user| ahead(user)).collect();
        let checks = Checks::connect(&doorward.check).await;
        for token in &dated {
            assert_eq!(reason(&checks, token).await, "ok");
        }
        if let Some(other) = &other {
            // An instance with the next name receives it from one with the previous name.
            let lead = || other.metric("doorward_clock_skew_seconds{of=\"shop\"}");
            eventually("the lead is shared", || async { lead().await.unwrap_or_default() > 15.0 }).await;
            assert_eq!(revoke(other, &json!({"kind": "user", "issuer": "shop", "id": "alice"})).await.status, 201);
            all_are_refused(other, &dated[..1]).await;
            all_are_refused(&doorward, &dated[..1]).await;
        }
        changes(&doorward, &next(&doorward, &tokens, store, &[&new]), &[], &[]).await;
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "shop", "id": "bob"})).await.status, 201);
        all_are_refused(&doorward, &dated[1..2]).await;
        restarted(&mut doorward, &config(&tokens, store, &[&new])).await;
        doorward.ready().await;
        // With Redis the lead is read with the first lease.
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "shop", "id": "carol"})).await.status, 201);
        all_are_refused(&doorward, &dated[2..]).await;
    }
}
