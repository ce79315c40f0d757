//! Peers that do nothing, or everything slowly.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::watch::{LASTS, Target};
use super::wire::{END_HEADERS, HEADERS, PREFACE, Stream, check_head, closes, data, dial, frame, greet};
use crate::support::eventually;

const QUICK: &str = "handshake_timeout: 1s, request_timeout: 1s, http_timeout: 1s";

/// Sends bytes one by one, slowly, until the peer closes.
async fn trickle(mut stream: Box<dyn Stream>, bytes: Vec<u8>) {
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let writing = async {
        for byte in bytes.iter().cycle() {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        use tokio::io::AsyncReadExt;
        let mut bytes = [0; 4096];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

/// Trickles on many connections; returns the time until the last was closed.
async fn many(address: &str, bytes: &[u8]) -> String {
    let began = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..100 {
        all.spawn(trickle(dial(address).await, bytes.to_vec()));
    }
    while all.join_next().await.is_some() {}
    format!("100 connections, all closed after {:.1?}", began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_beginnings_are_cut_off() {
    for (listen, name) in [("check: \"127.0.0.1:0\"", ""), ("check: \"unix:DIR/check.sock\"", ", Unix socket")] {
        let target = Target::listening(listen, QUICK).await;
        let check = target.doorward.check.clone();
        target.under(&format!("slow prefaces{name}"), move || async move { many(&check, &PREFACE[..23]).await }).await;
        assert!(target.connections("check", "slow").await >= 100.0);
        let check = target.doorward.check.clone();
        target.under(&format!("no preface{name}"), move || async move { many(&check, b"").await }).await;
        let http = target.doorward.http.to_string();
        target
            .under(&format!("slow heads, HTTP{name}"), move || async move {
                many(&http, b"GET /livez HTTP/1.1\r\nhost: a\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")
                    .await
            })
            .await;
        let http = target.doorward.http.to_string();
        let slow = target.connections("http", "slow").await;
        assert!(slow >= 100.0);
        target.under(&format!("slow prefaces, HTTP{name}"), move || async move { many(&http, PREFACE).await }).await;
    }
}

/// A second request that does not end, and bodies that do not.
#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_are_cut_off() {
    let target = Target::start(&format!("{QUICK}, idle_timeout: 1s")).await;
    let (check, http) = (target.doorward.check.clone(), target.doorward.http.to_string());
    let abuse = move || async move {
        let began = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..50 {
            let mut stream = dial(&http).await;
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /livez HTTP/1.1\r\nhost: a\r\nx: ")
                .await
                .unwrap();
            all.spawn(trickle(stream, b"y".to_vec()));
            let mut stream = dial(&http).await;
            stream.write_all(b"POST /v1/revocations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n").await.unwrap();
            all.spawn(trickle(stream, b" ".to_vec()));
            let mut stream = greet(&check, &[]).await;
            let opening = [frame(HEADERS, END_HEADERS, 1, &check_head()), data(1, &[0, 0, 1, 0, 0], false)].concat();
            stream.write_all(&opening).await.unwrap();
            all.spawn(trickle(stream, frame(0, 0, 1, &[])));
            // A head that stops after its first half.
            let mut stream = greet(&check, &[]).await;
            stream.write_all(&frame(HEADERS, 0, 1, &check_head())).await.unwrap();
            all.spawn(async move { closes(&mut stream).await });
        }
        while all.join_next().await.is_some() {}
        format!("200 connections, all closed after {:.1?}", began.elapsed())
    };
    target.under("slow requests", abuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_idle_connections() {
    let target = Target::start("").await;
    let (check, http) = (target.doorward.check.clone(), target.doorward.http.to_string());
    let abuse = move || async move {
        let mut held = Vec::new();
        for _ in 0..500 {
            held.push(greet(&check, &[]).await);
        }
        for _ in 0..500 {
            held.push(greet(&http, &[]).await);
        }
        tokio::time::sleep(LASTS).await;
        format!("{} idle connections", held.len())
    };
    target.under("idle connections", abuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end_and_working_ones_stay() {
    let target = Target::start(&format!("{QUICK}, idle_timeout: 1s, keepalive_interval: 200ms")).await;
    let (check, http) = (target.doorward.check.clone(), target.doorward.http.to_string());
    let abuse = move || async move {
        let mut all = JoinSet::new();
        for address in [check, http] {
            for _ in 0..20 {
                let mut stream = greet(&address, &[]).await;
                all.spawn(async move { closes(&mut stream).await });
            }
        }
        while all.join_next().await.is_some() {}
        "40 connections closed".to_owned()
    };
    // The good client's connection stays open throughout.
    target.under("idle connections that do not answer pings", abuse).await;
    let client = h2(&target.doorward.check).await;
    eventually("the idle connection is closed", || async { target.connections("check", "idle").await >= 1.0 }).await;
    drop(client);
}

/// A connection that a library keeps: it answers pings.
async fn h2(address: &str) -> crate::support::grpc::Checks {
    crate::support::grpc::Checks::connect(address).await
}
