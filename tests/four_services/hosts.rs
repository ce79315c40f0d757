//! Accounts, A, B and C on separate machines, and Redis on one that only Doorward reaches.
//!
//! ```text
//!             ┌─ gateway: Envoy, Doorward ── Accounts
//!   client ───┼─ a:       Envoy, Doorward ── A
//!    (front)  ├─ b:       Envoy, Doorward ── B
//!             └─ c:       Envoy, Doorward ── C
//!   redis ──── (store) gateway, a, b, c
//! ```
//!
//! A service has a network in which there is its host and nothing else. The gateway serves Accounts itself,
//! and A, B and C through their own Envoys.

mod desk;
mod network;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use self::desk::{Answer, Client, Desk, Host, MAX_STALENESS, SignedOut};
use crate::support::{PATIENCE, envoy};

#[test]
fn on_separate_machines_all_refuse_and_a_cut_off_one_refuses_in_time() {
    let Some(binary) = envoy::binary() else { return };
    let desk = match Desk::new() {
        Ok(desk) => desk,
        Err(reason) => return eprintln!("SKIPPED: no network namespaces here (they take root and iproute2): {reason}"),
    };
    super::support::binary(); // Built before: none of the machines reaches a registry.
    let desk = desk.start(&binary);
    desk.client.run(async || {
        let client = Client::new(&desk);
        nobody_goes_around(&desk);
        for at in &desk.hosts {
            four_steps(&client, &desk, at).await;
        }
        let [_, a, b, _] = &desk.hosts;
        let (down, up) = (|| a.machine.ip("link set dev store down"), || a.machine.ip("link set dev store up"));
        cut_off(&client, &desk, a, "without a link", down, up).await;
        let (swallow, forward) = (|| desk.store.swallow("b"), || desk.store.forward("b"));
        cut_off(&client, &desk, b, "with a link that swallows all", swallow, forward).await;
    });
}

/// Only the hosts can reach Redis, and only its host can reach a service.
fn nobody_goes_around(desk: &Desk) {
    let reaches = |address: SocketAddr| {
        let connected = TcpStream::connect_timeout(&address, Duration::from_secs(5));
        connected.map(drop).map_err(|error| error.kind())
    };
    let no_way = Err(ErrorKind::NetworkUnreachable);
    for host in &desk.hosts {
        assert_eq!(host.machine.inside(|| reaches(desk.redis)), Ok(()), "Doorward of {} to Redis", host.name);
        assert_eq!(host.pod.inside(|| reaches(desk.redis)), no_way, "the service of {} to Redis", host.name);
        for other in &desk.hosts {
            assert_eq!(host.pod.inside(|| reaches(other.front)), no_way, "from {} to {}", host.name, other.name);
        }
        assert_eq!(reaches(host.service), no_way, "the client to the service of {}", host.name);
    }
    assert_eq!(reaches(desk.redis), no_way, "the client to Redis");
}

/// Log in, call, log out, call again and be refused; then every other host refuses the token, too.
#[expect(clippy::print_stdout, reason = "how long it took, for whoever wants to see")]
async fn four_steps(client: &Client, desk: &Desk, at: &Host) {
    let (token, other) = (client.logs_in("alice").await, client.logs_in("alice").await);
    for token in [&token, &other] {
        client.is_served(at, token).await;
    }
    let gone = client.logs_out(token).await;
    let took = client.is_refused(at, &gone).await;
    println!("at {}: refused {took:?} after the answer to the sign-out", at.name);
    for everywhere in &desk.hosts {
        client.is_refused(everywhere, &gone).await;
        client.is_served(everywhere, &other).await;
    }
}

/// Sign-outs while a host has lost Redis: all others refuse at once, the cut-off host accepts nothing later than
/// `max_staleness` after them, and has all sign-outs when it is connected again.
#[expect(clippy::print_stdout, reason = "how long it took, for whoever wants to see")]
async fn cut_off(client: &Client, desk: &Desk, at: &Host, how: &str, cut: impl Fn(), mend: impl Fn()) {
    let (live, mut tokens) = (client.logs_in("bob").await, Vec::new());
    for user in ["alice", "bob", "alice"] {
        tokens.push(client.logs_in(user).await);
        client.is_served(at, &tokens[tokens.len() - 1]).await;
    }
    cut();
    let mut gone = Vec::new();
    for token in tokens {
        gone.push(client.logs_out(token).await);
    }
    let mut slowest = Duration::ZERO;
    for elsewhere in desk.hosts.iter().filter(|host| host.name != at.name) {
        for gone in &gone {
            slowest = slowest.max(client.is_refused(elsewhere, gone).await);
        }
        client.is_served(elsewhere, &live).await;
    }
    let stale = becomes_stale(client, at, &gone).await;
    assert_eq!(client.calls(at, &live).await.1, Answer::Stale, "a list that is too old allows nothing");
    mend();
    let returned = knows_them_when_it_is_back(client, at, &gone).await;
    client.is_served(at, &live).await;
    println!(
        "{} {how}: elsewhere refused within {slowest:?}, here stale {stale:?} after the first sign-out; back \
         after {returned:?}",
        at.name
    );
}

async fn becomes_stale(client: &Client, at: &Host, gone: &[SignedOut]) -> Duration {
    let began = Instant::now();
    loop {
        for gone in gone {
            let (sent, answer) = client.calls(at, &gone.token).await;
            let later = sent.saturating_duration_since(gone.at);
            match answer {
                Answer::Stale => return gone.at.elapsed(),
                Answer::Served => assert!(later <= MAX_STALENESS, "accepted {later:?} after its sign-out"),
                Answer::SignedOut => panic!("{} cannot know", at.name),
            }
        }
        assert!(began.elapsed() < PATIENCE, "{} does not notice that it is cut off", at.name);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Its first answer about each that is not 503 is the right one.
async fn knows_them_when_it_is_back(client: &Client, at: &Host, gone: &[SignedOut]) -> Duration {
    let back = Instant::now();
    for gone in gone {
        loop {
            match client.calls(at, &gone.token).await.1 {
                Answer::SignedOut => break,
                Answer::Stale => assert!(back.elapsed() < PATIENCE, "{} does not come back", at.name),
                Answer::Served => panic!("{} is back, and accepts what was signed out meanwhile", at.name),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    back.elapsed()
}
