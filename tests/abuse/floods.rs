//! Frames that cost the sender nothing: resets, continuations, pings, settings, windows that never open.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::watch::{LASTS, Target};
use super::wire::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, Stream, check_head, data, dial, frame,
    get_head, greet, integer, literal, message,
};
use crate::support::grpc::{Checks, get};
use crate::support::{PATIENCE, eventually};

/// Sends the same bytes until the time is over, on a new connection whenever the peer closes one; discards the
/// answers, or does not read them at all.
async fn flood(address: &str, reads: bool, mut next: impl FnMut(u32) -> Vec<u8>) -> String {
    let (began, mut connections, mut sent, mut stalled) = (Instant::now(), 0, 0_usize, 0);
    while began.elapsed() < LASTS {
        let mut stream = greet(address, &[]).await;
        connections += 1;
        let mut id = 1;
        let mut answer = vec![0; 65_536];
        while began.elapsed() < LASTS && id < 1 << 30 {
            let bytes = next(id);
            id += 2;
            let moved = async {
                if !reads {
                    return stream.write_all(&bytes).await.is_ok();
                }
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                tokio::select! {
                    written = writer.write_all(&bytes) => written.is_ok(),
                    read = async { loop { if let Ok(0) | Err(_) = reader.read(&mut answer).await { break false } } } => read,
                }
            };
            match tokio::time::timeout(LASTS.saturating_sub(began.elapsed()), moved).await {
                Ok(true) => sent += bytes.len(),
                Ok(false) => break, // The peer closed it.
                Err(_) => stalled += 1,
            }
        }
    }
    format!("{} MB on {connections} connections, {stalled} stalled", sent >> 20)
}

async fn on_every_listener(what: &str, reads: bool, next: fn(u32) -> Vec<u8>) {
    let target = Target::start("").await;
    let check = target.doorward.check.clone();
    target.under(what, move || async move { flood(&check, reads, next).await }).await;
    let http = target.doorward.http.to_string();
    target.under(&format!("{what}, HTTP"), move || async move { flood(&http, reads, next).await }).await;
    let target = Target::listening("check: \"unix:DIR/check.sock\"", "").await;
    let check = target.doorward.check.clone();
    target.under(&format!("{what}, Unix socket"), move || async move { flood(&check, reads, next).await }).await;
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_reset() {
    on_every_listener("rapid reset", true, |id| {
        let head = frame(HEADERS, END_HEADERS, id, &check_head());
        [head, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
    })
    .await;
}

/// CVE-2024-27316 and its kin: a head that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn continuation_flood() {
    on_every_listener("CONTINUATION flood", true, |id| {
        let mut fields = Vec::new();
        for n in 0..100 {
            literal(&mut fields, &format!("x-{n}"), &"v".repeat(100));
        }
        match id {
            1 => frame(HEADERS, 0, 1, &check_head()),
            _ => frame(CONTINUATION, 0, 1, &fields),
        }
    })
    .await;
}

/// CVE-2019-9512.
#[tokio::test(flavor = "multi_thread")]
async fn ping_flood_that_reads_no_answer() {
    on_every_listener("PING flood", false, |id| frame(PING, 0, 0, &[u8::try_from(id % 256).unwrap(); 8]).repeat(500))
        .await;
}

/// CVE-2019-9515.
#[tokio::test(flavor = "multi_thread")]
async fn settings_flood_that_reads_no_answer() {
    on_every_listener("SETTINGS flood", false, |id| {
        let table = [&[0, 1][..], &(id % 65_536).to_be_bytes()].concat(); // The size of the header table.
        frame(SETTINGS, 0, 0, &table).repeat(500)
    })
    .await;
}

/// CVE-2019-9518.
#[tokio::test(flavor = "multi_thread")]
async fn empty_frames() {
    on_every_listener("empty DATA frames", true, |id| match id {
        1 => frame(HEADERS, END_HEADERS, 1, &check_head()),
        _ => frame(0, 0, 1, &[]).repeat(500),
    })
    .await;
}

/// CVE-2016-6581: fields that are named by one byte each, of a table that the client filled.
#[tokio::test(flavor = "multi_thread")]
async fn header_bomb() {
    on_every_listener("HPACK bomb", true, |id| {
        let mut head = check_head();
        if id == 1 {
            head.push(0x40); // Literal, to be remembered.
            integer(&mut head, 1);
            head.push(b'x');
            integer(&mut head, 3900);
            head.extend([b'v'; 3900]);
        } else {
            head.extend([0xbe; 12_000]); // References to the indexed entry, repeated.
        }
        frame(HEADERS, END_HEADERS, id, &head)
    })
    .await;
}

/// Requests whose answers are never read, as many as fit.
async fn deaf(address: &str, request: fn(u32) -> Vec<u8>) -> String {
    let mut held: Vec<Box<dyn Stream>> = Vec::new();
    for _ in 0..20 {
        let mut stream = greet(address, &[(4, 0)]).await; // The window of every stream is closed.
        for n in 0..1024 {
            if stream.write_all(&request(2 * n + 1)).await.is_err() {
                break;
            }
        }
        held.push(stream);
    }
    tokio::time::sleep(LASTS).await;
    format!("{} connections with 1,024 requests each", held.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_never_open() {
    let target = Target::start("").await;
    let check = target.doorward.check.clone();
    let asking = |id| {
        let asked = get("/public").token("x").message();
        let bytes = message(&prost::Message::encode_to_vec(&asked));
        [frame(HEADERS, END_HEADERS, id, &check_head()), data(id, &bytes, true)].concat()
    };
    target.under("zero windows", move || async move { deaf(&check, asking).await }).await;
    let target = Target::start("").await;
    let http = target.doorward.http.to_string();
    let scraping = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &get_head("/metrics"));
    target.under("zero windows, HTTP", move || async move { deaf(&http, scraping).await }).await;
}

/// HTTP/1.1 requests in one long line, whose answers are not read.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_are_not_read() {
    let target = Target::start("").await;
    let http = target.doorward.http.to_string();
    let abuse = move || async move {
        let mut held = Vec::new();
        let began = Instant::now();
        for _ in 0..50 {
            let mut stream = dial(&http).await;
            let many = b"GET /metrics HTTP/1.1\r\nhost: doorward\r\n\r\n".repeat(100);
            let left = LASTS.saturating_sub(began.elapsed()).max(std::time::Duration::from_millis(50));
            let _ = tokio::time::timeout(left, async {
                for _ in 0..100 {
                    stream.write_all(&many).await.unwrap();
                }
            })
            .await;
            held.push(stream);
        }
        tokio::time::sleep(LASTS).await;
        format!("{} pipelines", held.len())
    };
    target.under("pipelines", abuse).await;
}

/// Bytes that are part of no request are read at `limits.overhead_bytes_per_second`, however fast they come.
#[tokio::test(flavor = "multi_thread")]
async fn peers_without_requests_are_read_slowly() {
    let target = Target::listening("check: \"unix:DIR/check.sock\"", "overhead_bytes_per_second: 65536").await;
    let check = target.doorward.check.clone();
    let mut stream = greet(&check, &[]).await;
    let (began, mut sent) = (Instant::now(), 0);
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
    let mut answers = vec![0; 65_536];
    while began.elapsed() < LASTS {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        tokio::select! {
            written = writer.write(&pings) => sent += written.unwrap(),
            read = reader.read(&mut answers) => assert!(read.unwrap() > 0),
            () = tokio::time::sleep(LASTS) => {}
        }
    }
    // The bytes that were read, and those in the socket's buffer.
    let most = 1e6 + began.elapsed().as_secs_f64() * 65_536.0;
    assert!((20_000.0..most).contains(&f64::from(u32::try_from(sent).unwrap())), "{sent} bytes");
    drop(stream);
    eventually("it is counted", || async { target.connections("check", "held").await >= 1.0 }).await;
}

/// Bytes of requests are read as fast as they arrive.
#[tokio::test(flavor = "multi_thread")]
async fn large_requests_are_not_held_up() {
    let target = Target::start("overhead_bytes_per_second: 65536").await;
    let checks = Checks::connect(&target.doorward.check).await;
    let token = target.tokens.of("alice");
    let began = Instant::now();
    for _ in 0..200 {
        let asked = get("/").token(&token).header("x-large", "v".repeat(50_000));
        assert!(checks.check(asked).await.allowed());
    }
    // At that rate it would be two and a half minutes.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
