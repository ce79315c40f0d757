//! Listeners that are full.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::watch::Target;
use super::wire::{closes, greet};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};

/// One connection beyond the limit is closed at once and counted; the others stay open.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_more_is_closed_at_once() {
    for listen in ["check: \"127.0.0.1:0\"", "check: \"unix:DIR/check.sock\""] {
        let target = Target::listening(listen, "connections: 8, handshake_timeout: 1m").await;
        // One connection, that is there before the others; a pool may open a second one, which would be refused.
        let stream = TcpStream::connect(target.doorward.http).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let (scrapes, mut running) = (Mutex::new(sender), JoinSet::new());
        running.spawn(connection);
        let count = async |listener: &str, result: &str| {
            let mut sender = scrapes.lock().await;
            sender.ready().await.unwrap();
            let scrape = Request::get("/metrics").header("host", "doorward").body(String::new()).unwrap();
            let body = sender.send_request(scrape).await.unwrap().collect().await.unwrap().to_bytes();
            let series = format!("doorward_connections_total{{listener=\"{listener}\",result=\"{result}\"}} ");
            let text = std::str::from_utf8(&body).unwrap();
            text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap()
        };
        count("http", "accepted").await;
        let checks = Checks::connect(&target.doorward.check).await;
        let good = target.tokens.of("alice");
        assert!(checks.check(get("/").token(&good)).await.allowed());
        for (name, address) in [("check", target.doorward.check.clone()), ("http", target.doorward.http.to_string())] {
            let mut held = Vec::new();
            // Each is there before the next, or closed.
            let refused = count(name, "refused").await;
            while count(name, "refused").await == refused && held.len() < 20 {
                let accepted = count(name, "accepted").await;
                let mut stream = greet(&address, &[]).await;
                eventually("it is counted", || async {
                    count(name, "accepted").await > accepted || count(name, "refused").await > refused
                })
                .await;
                if count(name, "refused").await > refused {
                    closes(&mut stream).await;
                }
                held.push(stream);
            }
            assert!((5..=9).contains(&held.len()), "{name}: {}", held.len());
            assert!(checks.check(get("/").token(&good)).await.allowed(), "who is there goes on");
            drop(held);
            eventually("there is room again", || async {
                let mut stream = greet(&address, &[]).await;
                tokio::time::timeout(Duration::from_millis(300), closes(&mut stream)).await.is_err()
            })
            .await;
        }
    }
}
