//! Three real instances, a fault every 20 seconds, and an oracle that determines the permitted answers of each.
//!
//! The faults are drawn from a seed, which is printed; `DOORWARD_SOAK_SEED` repeats them. One clock at a time is
//! wrong, by up to an hour; the issuer dates tokens up to 27 s ahead; the instances' bounds differ and change.
//!
//! A check that was sent later than `max_staleness` after a sign-out was answered 204 must not be allowed; a token
//! that an instance refused once as signed out is never allowed by it again. Once `wait=all` confirmed, no check that
//! is sent later is allowed. Any such wrong allow fails the soak. A token that was not signed out may be refused by
//! 503 or for its times only, and only while a fault lasts or a moment after, or by 503 if the store has not answered
//! the instance for `max_staleness` (see `tally` for the other excuses of a refusal).

use std::collections::HashSet;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Mutex, RwLock};
use tokio::time::{sleep, timeout};

use super::faults::{Dice, Fault};
use super::tally::{Cause, Pace, Tally};
use crate::api::{OPERATOR, admin_keys};
use crate::ledger::support::RedisServer;
use crate::support::TempDir;
use crate::support::clock::Clock;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::proxy::{Following, Proxy};
use crate::support::tokens::{Tokens, now};

const MAX_STALENESS: Duration = Duration::from_secs(2);
const FAULT_EVERY: Duration = Duration::from_secs(20);
/// How long after a fault an instance may take to be current.
const GRACE: Duration = Duration::from_secs(5);
/// `max_lifetime` and `leeway` of the instances. No clock is off by more than the retention, and a token lives shorter
/// than the largest step: an instance whose clock is ahead sees it expired, and must not forget its revocation.
pub(super) const LIMITS: [(&str, &str); 4] = [("70m", "30s"), ("80m", "30s"), ("65m", "45s"), ("2h", "40s")];
const LIFE: i64 = 45 * 60;
/// The issuer leads by less than this, in seconds; every instance is shown a token that leads by as much.
const LEAD: usize = 30;

pub(super) struct Fleet {
    /// The primary and its replica.
    pub(super) redis: Mutex<[RedisServer; 2]>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) clocks: Vec<Clock>,
    pub(super) instances: Vec<RwLock<Member>>,
    configs: Vec<StdMutex<String>>,
    tokens: Tokens,
    signed_out: StdMutex<Vec<SignedOut>>,
    /// The fault that lasts, or ended a moment ago.
    fault: StdMutex<Option<Fault>>,
    /// All that were begun, and when.
    faults: StdMutex<Vec<(Duration, Fault)>>,
    began: Instant,
    pace: Arc<Pace>,
    tally: StdMutex<Tally>,
}

pub(super) struct Member {
    pub(super) doorward: Doorward,
    checks: Checks,
}

#[derive(Clone)]
struct SignedOut {
    token: String,
    /// When the answer came.
    at: Instant,
    /// No instance accepts it any more.
    confirmed: bool,
    /// How, and the instance that was asked.
    how: &'static str,
    by: usize,
}

impl Fleet {
    async fn start() -> Self {
        let options = ["--appendonly", "yes", "--appendfsync", "everysec", "--repl-diskless-sync-delay", "0"];
        let redis = [RedisServer::start_with_clock(&options).await, RedisServer::start_with_clock(&options).await];
        follow(&redis[1], &redis[0]);
        let tokens = Tokens::new();
        let (mut proxies, mut configs, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        let clocks = vec![Clock::at("+0"), Clock::at("+0"), Clock::at("+0")];
        for (clock, limits) in clocks.iter().zip(LIMITS) {
            let proxy = Proxy::start(redis[0].port);
            let config = config(&tokens, proxy.port, limits);
            instances.push(RwLock::new(Member::start(&config, clock, &tokens).await));
            proxies.push(proxy);
            configs.push(StdMutex::new(config));
        }
        Self {
            redis: Mutex::new(redis),
            clocks,
            proxies,
            instances,
            configs,
            tokens,
            signed_out: StdMutex::default(),
            fault: StdMutex::default(),
            faults: StdMutex::default(),
            began: Instant::now(),
            pace: Arc::default(),
            tally: StdMutex::default(),
        }
    }

    /// kill -9, and another in its place.
    pub(super) async fn restart(&self, at: usize) {
        let mut member = self.instances[at].write().await;
        member.doorward.process.signal("KILL");
        let config = self.configs[at].lock().unwrap().clone();
        *member = Member::start(&config, &self.clocks[at], &self.tokens).await;
    }

    /// Another configuration, renamed into place.
    pub(super) async fn reconfigure(&self, at: usize, limits: usize) {
        let member = self.instances[at].read().await;
        let config = config(&self.tokens, self.proxies[at].port, LIMITS[(limits + at) % LIMITS.len()]);
        let (new, file) = (member.doorward.dir.path().join("new"), member.doorward.dir.path().join("doorward.yaml"));
        std::fs::write(&new, &config).unwrap();
        std::fs::rename(new, file).unwrap();
        *self.configs[at].lock().unwrap() = config;
    }

    pub(super) async fn step_store(&self, offset: &str) {
        for server in &*self.redis.lock().await {
            server.step_clock(offset);
        }
    }

    pub(super) async fn fail_over(&self) {
        let mut redis = self.redis.lock().await;
        redis[0].kill();
        redis[1].cli(&["REPLICAOF", "NO", "ONE"]);
        redis.swap(0, 1);
        for proxy in &self.proxies {
            proxy.retarget(redis[0].port);
        }
        redis[1].run().await;
        follow(&redis[1], &redis[0]);
    }

    /// Signs out tokens and users, at one instance after the other.
    async fn sign_out(&self, mut dice: Dice) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(6)).build().unwrap();
        for n in 0.. {
            let user = format!("alice-{n}");
            let mut minted = vec![mint(&self.tokens, &user, dice.roll(LEAD - 2))];
            let http = {
                let member = self.instances[n % 3].read().await;
                member.doorward.http
            };
            let way = dice.roll(4);
            let how = ["logout", "logout", "logout?all=true", "user, wait=all"][way];
            if way > 1 {
                minted.push(mint(&self.tokens, &user, LEAD - 3));
            }
            let answer = match way {
                0 | 1 => client.post(format!("http://{http}/logout")).bearer_auth(&minted[0]).send().await,
                2 => client.post(format!("http://{http}/logout?all=true")).bearer_auth(&minted[0]).send().await,
                _ => {
                    let url = format!("http://{http}/v1/revocations?wait=all&timeout=3s");
                    let body = json!({"issuer": "dev", "kind": "user", "id": user});
                    client.post(url).bearer_auth(OPERATOR).json(&body).send().await
                }
            };
            let status = answer.map_or(0, |answer| answer.status().as_u16());
            let (at, confirmed) = (Instant::now(), status == 201);
            {
                let mut tally = self.tally.lock().unwrap();
                if [201, 202, 204].contains(&status) {
                    let revoked = minted.into_iter().map(|token| SignedOut { token, at, confirmed, how, by: n % 3 });
                    self.signed_out.lock().unwrap().extend(revoked);
                    tally.sign_outs += 1;
                    tally.confirmed += u64::from(confirmed);
                } else {
                    tally.unstored += 1;
                }
            }
            sleep(Duration::from_millis(40)).await;
        }
    }

    /// Asks one instance about tokens that are signed out, new and old, and about one that is not.
    async fn ask(&self, at: usize) {
        let mut live = mint(&self.tokens, "bob", 0);
        let (mut refused, mut allowed_at) = (HashSet::new(), Instant::now());
        for n in 0_usize.. {
            let picked = {
                let signed_out = self.signed_out.lock().unwrap();
                let newest = signed_out.len().saturating_sub(1 + n % 50);
                let any = (n * 7919) % signed_out.len().max(1);
                let picked = signed_out.get(if n % 3 == 0 { any } else { newest }).cloned();
                picked.filter(|_| n % 4 != 0)
            };
            if n % 500 == 0 {
                live = mint(&self.tokens, "bob", LEAD);
            }
            let Ok(member) = self.instances[at].try_read() else {
                sleep(Duration::from_millis(5)).await; // The instance is being replaced.
                continue;
            };
            let (sent, heard) = (Instant::now(), self.proxies[at].following());
            let token = picked.as_ref().map_or(&live, |picked| &picked.token);
            let Ok(answer) =
                timeout(Duration::from_secs(10), member.checks.send(get("/").token(token).message())).await
            else {
                self.tally.lock().unwrap().unanswered += 1; // The instance stands still.
                continue;
            };
            let log = member.doorward.log.clone();
            drop(member);
            let Ok(answer) = answer else {
                self.tally.lock().unwrap().unanswered += 1; // The instance was killed.
                continue;
            };
            let reason = crate::support::grpc::verdict(answer).reason().to_owned();
            let is_unheard = [heard, self.proxies[at].following()].into_iter().flatten().any(is_unheard);
            let answer = Answer { at, sent, reason, is_unheard, log };
            self.judge(&answer, picked, &mut refused, &mut allowed_at);
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The oracle's verdict about an answer.
    fn judge(
        &self,
        answer: &Answer,
        picked: Option<SignedOut>,
        refused: &mut HashSet<String>,
        allowed_at: &mut Instant,
    ) {
        let (at, fault) = (answer.at, *self.fault.lock().unwrap());
        let befallen = fault.filter(|fault| fault.befalls(at));
        let mut tally = self.tally.lock().unwrap();
        tally.checks += 1;
        match (&*answer.reason, picked) {
            ("ok", Some(signed_out)) => {
                let later = answer.sent.saturating_duration_since(signed_out.at);
                tally.latest_allow = tally.latest_allow.max(later);
                let bound = if signed_out.confirmed { Duration::ZERO } else { MAX_STALENESS };
                let was_refused = refused.contains(&signed_out.token);
                if later > bound || was_refused {
                    tally.wrong_allow(self.context(answer, &signed_out, was_refused));
                }
            }
            ("ok", None) => {
                let outage = allowed_at.elapsed();
                if let Some(fault) = befallen {
                    let name = format!("{fault:?}").split('(').next().unwrap().to_owned();
                    let longest = tally.outages.entry(name).or_default();
                    *longest = outage.max(*longest);
                }
                *allowed_at = Instant::now();
            }
            ("signed_out" | "revoked", Some(SignedOut { token, .. })) => {
                tally.refused += 1;
                refused.insert(token);
            }
            ("revocations_stale", _) if befallen.is_some() => tally.unavailable += 1,
            ("revocations_stale", _) if answer.is_unheard => tally.unheard += 1,
            ("expired" | "not_yet_valid" | "lifetime_too_long", _) if befallen.is_some() => tally.untimely += 1,
            (other, _) => {
                let late = self.pace.explains();
                let cause = match fault {
                    Some(_) => Cause::Fault,
                    None if late.is_some() => Cause::Machine,
                    None => Cause::Nothing,
                };
                let context = format!("{:.1?} instance {at}, {fault:?}, late {late:?}", self.began.elapsed());
                tally.wrong_answer(other, cause, context);
            }
        }
    }

    /// The details of a wrong allow.
    fn context(&self, answer: &Answer, signed_out: &SignedOut, was_refused: bool) -> String {
        let SignedOut { confirmed, how, by, token, .. } = signed_out;
        let payload = token.split('.').nth(1).unwrap();
        let faults = self.faults.lock().unwrap();
        let log = answer.log.lock().unwrap();
        format!(
            "{:.1?} instance {} allowed a token {:?} after its sign-out ({how} at {by}, confirmed: {confirmed}, refused \
             here before: {was_refused}); payload {payload}; fault {:?}, the last ones {:.1?}; late {:?}; its log ends \
             {:#?}",
            self.began.elapsed(),
            answer.at,
            answer.sent.saturating_duration_since(signed_out.at),
            *self.fault.lock().unwrap(),
            &faults[faults.len().saturating_sub(4)..],
            self.pace.explains(),
            &log[log.len().saturating_sub(12)..]
        )
    }

    #[expect(clippy::print_stdout, reason = "how far it is")]
    async fn suffer(&self, duration: Duration, mut dice: Dice) -> usize {
        let began = Instant::now();
        let mut round = Vec::new();
        for n in 0.. {
            if began.elapsed() >= duration {
                return n;
            }
            let next = Instant::now() + FAULT_EVERY;
            if round.is_empty() {
                round = Fault::round(&mut dice);
            }
            let Some(fault) = round.pop() else { continue };
            *self.fault.lock().unwrap() = Some(fault);
            self.faults.lock().unwrap().push((self.began.elapsed(), fault));
            let started = Instant::now();
            fault.happen(self).await;
            sleep(GRACE).await;
            *self.fault.lock().unwrap() = None;
            println!("{:>6.1?} {fault:?}, with {GRACE:?} of grace {:.1?}", began.elapsed(), started.elapsed());
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        0
    }

    /// A new instance, which has only the store as a source, refuses every revoked token.
    async fn a_new_instance_refuses_all(&self) -> usize {
        let config = self.configs[0].lock().unwrap().clone();
        let member = Member::start(&config, &self.clocks[0], &self.tokens).await;
        let signed_out = self.signed_out.lock().unwrap().clone();
        for signed_out in &signed_out {
            let verdict = member.checks.check(get("/").token(&signed_out.token)).await;
            if verdict.allowed() {
                let log = member.doorward.log.clone();
                let answer = Answer { at: 0, sent: Instant::now(), reason: "ok".to_owned(), is_unheard: false, log };
                let context = self.context(&answer, signed_out, false);
                self.tally.lock().unwrap().wrong_allow(format!("by a new instance: {context}"));
            }
        }
        signed_out.len()
    }
}

/// An answer to a check.
struct Answer {
    /// The instance.
    at: usize,
    /// When the check was sent.
    sent: Instant,
    reason: String,
    /// The store had not answered the instance for longer than a view may be used.
    is_unheard: bool,
    /// The instance's log up to the answer.
    log: Arc<StdMutex<Vec<String>>>,
}

/// Whether an instance that reports stale revocations has had no answer of the store for too long: its view is as old
/// as the last answered request, and it has asked since.
fn is_unheard(following: Following) -> bool {
    following.is_kept_waiting() && following.heard.elapsed() > MAX_STALENESS
}

impl Member {
    async fn start(config: &str, clock: &Clock, tokens: &Tokens) -> Self {
        let doorward = Doorward::launch_by(clock.doorward(), TempDir::new(), config).await;
        doorward.ready().await;
        let checks = Checks::connect(&doorward.check).await;
        checks.check(get("/").token(&mint(tokens, "bob", LEAD))).await;
        Self { doorward, checks }
    }
}

fn config(tokens: &Tokens, port: u16, (max_lifetime, leeway): (&str, &str)) -> String {
    format!(
        "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:0\"}}\n\
         issuers: [{{name: dev, issuer: \"{}\", audiences: [{}], keys: {{jwks: {}}}, max_lifetime: {max_lifetime}, \
         leeway: {leeway}}}]\n\
         revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n{}",
        doorward::dev::ISSUER,
        doorward::dev::AUDIENCE,
        tokens.issuer.jwks(),
        admin_keys()
    )
}

/// A token that was issued this moment, by a clock that leads.
fn mint(tokens: &Tokens, user: &str, lead: usize) -> String {
    let issued_at = now() + i64::try_from(lead).unwrap();
    tokens.with(json!({"sub": user, "sid": null, "iat": issued_at, "exp": issued_at + LIFE}))
}

fn follow(replica: &RedisServer, primary: &RedisServer) {
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for long"]
async fn soak() {
    let duration = std::env::var("DOORWARD_SOAK").unwrap_or_else(|_| "20m".to_owned());
    let duration = humantime::parse_duration(&duration).unwrap();
    let seed = std::env::var("DOORWARD_SOAK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("DOORWARD_SOAK_SEED={seed}");
    let fleet = Fleet::start().await;
    fleet.pace.measure();
    let faults = tokio::select! {
        faults = fleet.suffer(duration, Dice::new(seed)) => faults,
        () = fleet.sign_out(Dice::new(seed ^ 1)) => 0,
        ((), (), ()) = async { tokio::join!(fleet.ask(0), fleet.ask(1), fleet.ask(2)) } => 0,
    };
    let known = fleet.a_new_instance_refuses_all().await;
    let tally = fleet.tally.lock().unwrap();
    println!(
        "{duration:?}, {faults} faults: {} checks, {} refused as signed out, {} by 503 and {} for their times \
         within a fault's window, {} by 503 while the store did not answer; {} sign-outs stored, {} of them confirmed ({known} tokens refused by a new instance at \
         the end), {} not stored; latest allow after a sign-out's answer: {:?}",
        tally.checks,
        tally.refused,
        tally.unavailable,
        tally.untimely,
        tally.unheard,
        tally.sign_outs,
        tally.confirmed,
        tally.unstored,
        tally.latest_allow
    );
    println!("longest time without an allow, by fault: {:?}", tally.outages);
    println!("{} checks unanswered; the machine was late by {:?} at most", tally.unanswered, fleet.pace.worst());
    match tally.verdict() {
        Ok(text) => println!("{text}"),
        Err(text) => panic!("{text}"),
    }
}
