//! Figures, not assertions: the cost of each way of detecting a revoked token, in one table.
//!
//!     cargo test --release --test main costs -- --ignored --nocapture
//!
//! Every way decides on the same tokens, from logins at the example's Accounts. All of them run at once, each
//! with its own Redis and Doorward, and are measured in turn, round by round: a slow phase of the machine
//! affects all of them.

mod list;
mod way;

use std::time::Duration;

use self::list::List;
use self::way::{ADMIN_KEY, Design, Way};
use crate::four_services::introspection::Accounts;
use crate::support::doorward;

const ROUNDS: usize = 7;
/// The tokens for the measurement of throughput: each caller has its own, or lookups would be shared. They
/// are valid for 5 minutes, which the rounds must not exceed.
const TOKENS: usize = 32;
const IDLE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn costs() {
    let accounts = Accounts::start().await;
    let mut ways = Vec::new();
    for design in designs(&accounts) {
        ways.push(Way::start(design).await);
    }
    let before: Vec<_> = ways.iter().map(Way::commands).collect();
    tokio::time::sleep(IDLE).await;
    for (way, before) in ways.iter_mut().zip(before) {
        way.idled(IDLE, before);
    }
    for way in &mut ways {
        way.write_entries().await;
    }
    let mut tokens = Vec::new();
    for n in 0..TOKENS {
        tokens.push(accounts.access_token(["alice", "bob"][n % 2]).await);
    }
    for way in &ways {
        way.meets(&tokens).await;
    }
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.round(&tokens).await;
        }
    }
    println!("\n{}", way::HEADER);
    for way in &ways {
        println!("{}", way.row());
    }
    for line in ways.iter().filter_map(Way::remark) {
        println!("{line}");
    }
}

fn designs(accounts: &Accounts) -> [Design; 6] {
    let (_, key, _) = doorward::run(&["hash-key"], ADMIN_KEY);
    let admin = format!("admin: {{keys: [{{name: auth, {}, may: [revoke, register]}}]}}\n", key.trim());
    let config = |issuer: String, revocation: &str| format!("{issuer}{admin}revocation: {{{revocation}}}\n");
    let asking = |cache: &str| config(accounts.issuer(&accounts.asked(cache)), "store: embedded");
    let redis =
        |settings: &str| config(accounts.issuer(""), &format!("store: redis, redis: {{url: \"REDIS\"}}{settings}"));
    let design = |name, config, list| Design { name, config, list };
    [
        design("Accounts is asked each time (`introspection`, `cache: 0s`)", asking("0s"), None),
        design("Accounts is asked, its answer kept (`cache: 10s`)", asking("10s"), None),
        design("Redis is asked each time (`read: lookup`)", redis(", read: lookup"), Some(List::SignedOut)),
        design("a blacklist in memory (the default)", redis(""), Some(List::SignedOut)),
        design("a whitelist in memory (`list: allow`)", redis(", list: allow"), Some(List::Live)),
        design("an instant per user in memory (kind `user`)", redis(""), Some(List::Users)),
    ]
}
