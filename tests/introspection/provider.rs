//! Against a real authorization server: npm's oidc-provider.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use super::{Fixture, RULES, with_introspection};
use crate::support::authorization_server::{AuthorizationServer, CLIENT_ID, CLIENT_SECRET};
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, ask, get};
use crate::support::tokens::Tokens;
use crate::support::{Process, eventually};

/// The provider, and its control channel.
struct Provider {
    _process: Process,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Provider {
    /// `None` if the test is skipped, with a message.
    fn start() -> Option<Self> {
        let Some(folder) = std::env::var("OIDC_PROVIDER").ok().filter(|folder| !folder.is_empty()) else {
            eprintln!("SKIPPED: OIDC_PROVIDER does not name a folder with oidc-provider; ./tests/run.sh makes one");
            return None;
        };
        let mut child = Command::new("node")
            .arg(format!("{}/tests/introspection/provider.mjs", env!("CARGO_MANIFEST_DIR")))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut provider = Self { _process: Process(child), stdin, stdout: BufReader::new(stdout).lines(), port: 0 };
        provider.port = provider.line().parse().unwrap();
        Some(provider)
    }

    fn line(&mut self) -> String {
        self.stdout.by_ref().map(Result::unwrap).find(|line| !line.starts_with("oidc-provider ")).unwrap()
    }

    fn command(&mut self, what: &str) -> String {
        writeln!(self.stdin, "{what}").unwrap();
        self.line()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_provider_vouches_for_its_opaque_tokens() {
    let Some(mut provider) = Provider::start() else { return };
    let (tokens, server) = (Tokens::new(), AuthorizationServer::start().await);
    let settings = format!(
        "introspection: {{url: \"http://127.0.0.1:{}/token/introspection\", client_id: \"{CLIENT_ID}\", client_secret: \"{CLIENT_SECRET}\", cache: 1s, timeout: 20s}}",
        provider.port
    );
    let config = with_introspection(&tokens.config(RULES), &settings);
    let config = config.replace(doorward::dev::ISSUER, "https://provider.test");
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let fixture = Fixture { tokens, server, doorward, checks };

    let (alice, bob) = (provider.command("mint alice"), provider.command("mint bob"));
    let verdict = fixture.check(&alice).await;
    assert_eq!((verdict.reason(), verdict.headers["x-user-id"].as_str()), ("ok", "alice"), "{verdict:?}");
    assert_eq!((verdict.metadata["client_id"].as_str(), verdict.metadata["scopes"].as_str()), ("shop-web", "read"));
    assert_eq!(fixture.checks.check(get("/scoped").token(&alice)).await.reason(), "insufficient_scope");
    assert_eq!(fixture.reason("made-up").await, "token_inactive");
    assert_eq!(fixture.reason(&bob).await, "ok");
    assert_eq!(provider.command(&format!("destroy {bob}")), "destroyed");
    eventually("the provider's new word counts", || async { fixture.reason(&bob).await == "token_inactive" }).await;
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token(&alice)).await.status, 204);
    assert_eq!(fixture.reason(&alice).await, "signed_out", "at once, whatever the provider says");
}
