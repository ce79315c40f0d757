//! Three real instances, a fault every 20 seconds, and an oracle that knows what each may answer.
//!
//! A check that was sent later than `max_staleness` after a sign-out was answered 204 must not be
//! allowed; a token that an instance refused once as signed out is never allowed by it again; a token
//! that nobody signed out is refused by 503 only, and only while a fault lasts or a moment after.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex as StdMutex;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Mutex, RwLock};
use tokio::time::{sleep, timeout};

use super::faults::Fault;
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

const MAX_STALENESS: Duration = Duration::from_secs(2);
const FAULT_EVERY: Duration = Duration::from_secs(20);
/// How long after a fault an instance may take to be current.
const GRACE: Duration = Duration::from_secs(5);

pub(super) struct Fleet {
    pub(super) redis: Mutex<RedisServer>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) instances: Vec<RwLock<Member>>,
    configs: Vec<String>,
    tokens: Tokens,
    signed_out: StdMutex<Vec<(String, Instant)>>,
    /// The fault that lasts, or ended a moment ago.
    fault: StdMutex<Option<Fault>>,
    tally: StdMutex<Tally>,
}

pub(super) struct Member {
    pub(super) doorward: Doorward,
    checks: Checks,
}

#[derive(Default)]
struct Tally {
    checks: u64,
    refused: u64,
    unavailable: u64,
    sign_outs: u64,
    unstored: u64,
    wrong: Vec<String>,
    /// From a sign-out's answer to the sending of the latest check that was allowed.
    latest_allow: Duration,
    /// By fault, how long no check of a live token was allowed.
    outages: BTreeMap<String, Duration>,
}

impl Fleet {
    async fn start() -> Self {
        let redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
        let tokens = Tokens::new();
        let (mut proxies, mut configs, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let proxy = Proxy::start(redis.port);
            let config = tokens.config(&format!(
                "revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"redis://127.0.0.1:{}\"}}}}\n",
                proxy.port
            ));
            instances.push(RwLock::new(Member::start(&config).await));
            proxies.push(proxy);
            configs.push(config);
        }
        Self {
            redis: Mutex::new(redis),
            proxies,
            instances,
            configs,
            tokens,
            signed_out: StdMutex::default(),
            fault: StdMutex::default(),
            tally: StdMutex::default(),
        }
    }

    /// kill -9, and another in its place.
    pub(super) async fn restart(&self, at: usize) {
        let mut member = self.instances[at].write().await;
        member.doorward.process.signal("KILL");
        *member = Member::start(&self.configs[at]).await;
    }

    fn mint(&self, user: &str) -> String {
        self.tokens.with(json!({"sub": user, "sid": null, "exp": now() + 80_000}))
    }

    /// Signs out one token after the other, at one instance after the other.
    async fn sign_out(&self) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().unwrap();
        for n in 0.. {
            let token = self.mint("alice");
            let http = {
                let member = self.instances[n % 3].read().await;
                member.doorward.http
            };
            let answer = client.post(format!("http://{http}/logout")).bearer_auth(&token).send().await;
            let stored = answer.is_ok_and(|answer| answer.status() == 204);
            if stored {
                self.signed_out.lock().unwrap().push((token, Instant::now()));
                self.tally.lock().unwrap().sign_outs += 1;
            } else {
                self.tally.lock().unwrap().unstored += 1;
            }
            sleep(Duration::from_millis(40)).await;
        }
    }

    /// Asks one instance about tokens that are signed out, new and old, and about one that is not.
    async fn ask(&self, at: usize) {
        let live = self.mint("bob");
        let (mut refused, mut allowed_at) = (HashSet::new(), Instant::now());
        for n in 0_usize.. {
            let picked = {
                let signed_out = self.signed_out.lock().unwrap();
                let newest = signed_out.len().saturating_sub(1 + n % 50);
                let any = (n * 7919) % signed_out.len().max(1);
                let picked = signed_out.get(if n % 3 == 0 { any } else { newest }).cloned();
                picked.filter(|_| n % 4 != 0)
            };
            let Ok(member) = self.instances[at].try_read() else {
                sleep(Duration::from_millis(5)).await; // It is being replaced.
                continue;
            };
            let sent = Instant::now();
            let token = picked.as_ref().map_or(&live, |(token, _)| token);
            let Ok(answer) =
                timeout(Duration::from_secs(10), member.checks.send(get("/").token(token).message())).await
            else {
                continue; // It stands still.
            };
            drop(member);
            let Ok(answer) = answer else { continue }; // It was killed.
            let reason = crate::support::grpc::verdict(answer).reason().to_owned();
            self.judge(at, sent, &reason, picked, &mut refused, &mut allowed_at);
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the oracle makes of an answer to a check that was sent at `sent`.
    fn judge(
        &self,
        at: usize,
        sent: Instant,
        reason: &str,
        picked: Option<(String, Instant)>,
        refused: &mut HashSet<String>,
        allowed_at: &mut Instant,
    ) {
        let fault = *self.fault.lock().unwrap();
        let mut tally = self.tally.lock().unwrap();
        tally.checks += 1;
        match (reason, picked) {
            ("ok", Some((token, signed_out_at))) => {
                let later = sent.saturating_duration_since(signed_out_at);
                tally.latest_allow = tally.latest_allow.max(later);
                if later > MAX_STALENESS || refused.contains(&token) {
                    tally.wrong.push(format!("instance {at} allowed {later:?} after the sign-out, {fault:?}"));
                }
            }
            ("ok", None) => {
                let outage = allowed_at.elapsed();
                if let Some(fault) = fault.filter(|fault| fault.befalls(at)) {
                    let name = format!("{fault:?}").split('(').next().unwrap().to_owned();
                    let longest = tally.outages.entry(name).or_default();
                    *longest = outage.max(*longest);
                }
                *allowed_at = Instant::now();
            }
            ("signed_out", Some((token, _))) => {
                tally.refused += 1;
                refused.insert(token);
            }
            ("revocations_stale", _) => {
                tally.unavailable += 1;
                if !fault.is_some_and(|fault| fault.befalls(at)) {
                    tally.wrong.push(format!("instance {at} was stale without a fault, {fault:?}"));
                }
            }
            (other, _) => tally.wrong.push(format!("instance {at} answered {other}, {fault:?}")),
        }
    }

    #[expect(clippy::print_stdout, reason = "how far it is")]
    async fn suffer(&self, duration: Duration) -> usize {
        let began = Instant::now();
        for n in 0.. {
            if began.elapsed() >= duration {
                return n;
            }
            let next = Instant::now() + FAULT_EVERY;
            let fault = Fault::nth(n);
            *self.fault.lock().unwrap() = Some(fault);
            let started = Instant::now();
            fault.happen(self).await;
            sleep(GRACE).await;
            *self.fault.lock().unwrap() = None;
            println!("{:>6.1?} {fault:?}, with {GRACE:?} of grace {:.1?}", began.elapsed(), started.elapsed());
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        0
    }

    /// A new instance, which has only the store to learn from, refuses everything.
    async fn a_new_instance_refuses_all(&self) -> usize {
        let member = Member::start(&self.configs[0]).await;
        let signed_out = self.signed_out.lock().unwrap().clone();
        for (token, _) in &signed_out {
            let verdict = member.checks.check(get("/").token(token)).await;
            if verdict.allowed() {
                self.tally.lock().unwrap().wrong.push("a new instance allowed a signed-out token".to_owned());
            }
        }
        signed_out.len()
    }
}

impl Member {
    async fn start(config: &str) -> Self {
        let doorward = Doorward::start(config).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { doorward, checks }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for long"]
async fn soak() {
    let duration = std::env::var("DOORWARD_SOAK").unwrap_or_else(|_| "20m".to_owned());
    let duration = humantime::parse_duration(&duration).unwrap();
    let fleet = Fleet::start().await;
    let faults = tokio::select! {
        faults = fleet.suffer(duration) => faults,
        () = fleet.sign_out() => 0,
        ((), (), ()) = async { tokio::join!(fleet.ask(0), fleet.ask(1), fleet.ask(2)) } => 0,
    };
    let known = fleet.a_new_instance_refuses_all().await;
    let tally = fleet.tally.lock().unwrap();
    println!(
        "{duration:?}, {faults} faults: {} checks, {} refused as signed out, {} by 503 within a fault's window; {} sign-outs \
         answered 204 ({known} refused by a new instance at the end), {} not; latest allow after a 204: {:?}",
        tally.checks, tally.refused, tally.unavailable, tally.sign_outs, tally.unstored, tally.latest_allow
    );
    println!("longest time without an allow, by fault: {:?}", tally.outages);
    assert!(
        tally.wrong.is_empty(),
        "{} wrong answers: {:?}",
        tally.wrong.len(),
        tally.wrong.iter().take(20).collect::<Vec<_>>()
    );
}
