//! How many instructions a decision takes: a number that does not depend on what else the machine does, so
//! that a change which makes it slower shows. Counted by Valgrind.
//!
//!     apt-get install valgrind; cargo install gungraun-runner --version 0.20.0 --locked
//!     cargo bench --bench instructions -- --save-baseline before
//!     cargo bench --bench instructions -- --baseline before
#![expect(clippy::expect_used, reason = "it stops where it cannot count")]
// From the macros, whose code is generated.
#![allow(clippy::pedantic, clippy::disallowed_methods, clippy::print_stdout, unused_qualifications)]

mod support;

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use doorward::api::Caller;
use doorward::api::check::{self, CheckServer};
use doorward::config::Config;
use doorward::dev::{AUDIENCE, DevIssuer, ISSUER};
use doorward::engine::assemble;
use futures_util::FutureExt;
use gungraun::{library_benchmark, library_benchmark_group, main};
use serde_json::json;
use support::message;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A service that is ready, and a message for it.
struct Fixture {
    /// Keeps the view fresh.
    _runtime: Runtime,
    service: CheckServer,
    message: Bytes,
}

impl Fixture {
    fn decide(&self) -> Vec<u8> {
        self.service.decide(Ok(self.message.clone()), Caller::default()).now_or_never().expect("no waiting")
    }
}

/// `rules`: of the configuration; `path`: asked for.
fn fixture(rules: &str, path: &str, has_token: bool) -> Fixture {
    let dev = DevIssuer::generate().expect("a key");
    let yaml = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {}}}}}]\n{rules}",
        dev.jwks()
    );
    let config = Config::parse(&yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config;
    let (state, _) = assemble::state(&config).expect("what it asks for");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let replica = state.replica.clone();
    runtime.block_on(async {
        tokio::spawn(replica.run(CancellationToken::new()));
        tokio::task::yield_now().await;
    });
    let authorization = has_token.then(|| {
        let now = doorward::clock::now().as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "email": "alice@example.com", "jti": "1", "sid": "2",
            "iat": now - 60, "exp": now + 600,
        });
        format!("Bearer {}", dev.mint(&claims).expect("a token"))
    });
    let message = message(path, authorization);
    Fixture { _runtime: runtime, service: check::service(state, 1 << 20, 1_000), message }
}

fn seen_before() -> Fixture {
    let fixture = fixture("", "/orders/17", true);
    fixture.decide();
    fixture
}

fn never_seen() -> Fixture {
    fixture("", "/orders/17", true)
}

fn missing() -> Fixture {
    fixture("", "/orders/17", false)
}

fn public() -> Fixture {
    fixture("rules: [{name: open, match: {path_prefix: /public}, access: public}]\n", "/public/17", false)
}

#[library_benchmark]
#[bench::token_seen_before(setup = seen_before)]
#[bench::token_never_seen(setup = never_seen)]
#[bench::token_missing(setup = missing)]
#[bench::public_path(setup = public)]
fn decide(fixture: Fixture) -> (Vec<u8>, Fixture) {
    (black_box(fixture.decide()), fixture)
}

library_benchmark_group!(name = message_to_answer; benchmarks = decide);
main!(library_benchmark_groups = message_to_answer);
