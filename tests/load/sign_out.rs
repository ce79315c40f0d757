//! The duration of a sign-out beside those of its parts, in turns, on the same machine: a round trip to Redis, the
//! two writes of its contract sent by hand, and a request to the same process that does nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::spread;
use crate::api::{OPERATOR, admin_keys};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::tokens::{Tokens, now};

const ROUNDS: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn sign_out() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let doorward = Doorward::start(&tokens.config(&config)).await;
    let mut plain = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    plain.set_nodelay(true).unwrap();
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", doorward.http);
    let mut times: [Vec<Duration>; 6] = Default::default();
    for n in 0..ROUNDS {
        let id = format!("3f2b8c1e-0000-4000-8000-{n:012}");
        let (ends, key) = ((now() + 600).to_string(), format!("doorward:{{r}}:dev:token:{id}"));
        let set = ["SET", &key, "* signed_out", "EXAT", &ends];
        let entry = ["issuer", "dev", "kind", "token", "id", &id, "at", "*", "expires", &ends, "origin", "signed_out"];
        let add = [&["XADD", "doorward:{r}:log", "*"][..], &entry].concat();
        let token = tokens.of("alice");
        let began = Instant::now();
        asked(&mut plain, &[&["PING"]]).await;
        times[0].push(began.elapsed());
        let began = Instant::now();
        asked(&mut plain, &[&add]).await;
        times[1].push(began.elapsed());
        let began = Instant::now();
        asked(&mut plain, &[&["MULTI"], &set, &add, &["EXEC"]]).await;
        times[2].push(began.elapsed());
        let began = Instant::now();
        assert_eq!(client.get(url("/livez")).send().await.unwrap().text().await.unwrap(), "ok\n");
        times[3].push(began.elapsed());
        let began = Instant::now();
        assert_eq!(client.post(url("/logout")).bearer_auth(&token).send().await.unwrap().status(), 204);
        times[4].push(began.elapsed());
        let body = serde_json::json!({"kind": "user", "issuer": "dev", "id": id});
        let began = Instant::now();
        let posted = client.post(url("/v1/revocations")).bearer_auth(OPERATOR).json(&body).send().await.unwrap();
        assert_eq!(posted.status(), 201);
        times[5].push(began.elapsed());
    }
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let [ping, add, contract, nothing, logout, revoked] = times.each_ref().map(|times| median(times));
    let names = ["PING", "XADD", "SET and XADD in MULTI", "GET /livez", "POST /logout", "POST /v1/revocations"];
    for (name, times) in names.into_iter().zip(times) {
        println!("{name:<22} {}", spread(times));
    }
    println!("POST /logout: {:.2} round trips, {:.2} times XADD", logout / ping, logout / add);
    for (name, took) in [("POST /logout", logout), ("POST /v1/revocations", revoked)] {
        let (own, parts) = (took - nothing - contract, nothing + contract);
        println!(
            "{name}: {:.2} times its parts (GET /livez and the two writes), {:.0} µs more",
            took / parts,
            own * 1e6
        );
    }
}

/// Sends commands in one piece (RESP 2) and waits for the answer to each.
async fn asked(connection: &mut TcpStream, commands: &[&[&str]]) {
    let mut text = String::new();
    for command in commands {
        write!(text, "*{}\r\n", command.len()).unwrap();
        for word in *command {
            write!(text, "${}\r\n{word}\r\n", word.len()).unwrap();
        }
    }
    connection.write_all(text.as_bytes()).await.unwrap();
    // EXEC answers with both writes'; each other command, with one line or with a length and a line.
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    let is_whole = |answer: &[u8]| {
        let lines = answer.split(|byte| *byte == b'\n').count() - 1;
        match commands {
            [_] if answer.first() == Some(&b'$') => lines == 2,
            [_] => lines == 1,
            _ => lines == 7,
        }
    };
    while !is_whole(&answer) {
        let read = connection.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0);
        answer.extend_from_slice(&buffer[..read]);
        assert!(!answer.starts_with(b"-"), "{}", String::from_utf8_lossy(&answer));
    }
}
