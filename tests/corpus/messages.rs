//! Messages that cannot be read: refused like any request, never failed, because a filter with `failure_mode_allow`
//! would let them pass (CVE-2024-23324).

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::{Corpus, good};
use crate::support::grpc::{Verdict, get, verdict};

/// Sends bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = CheckResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = CheckResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<CheckResponse>, Status> {
        let message = CheckResponse::decode(&mut *buffer).unwrap();
        assert!(!buffer.has_remaining());
        Ok(Some(message))
    }
}

async fn send(address: &str, message: Vec<u8>) -> Verdict {
    let channel = Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/envoy.service.auth.v3.Authorization/Check".parse().unwrap();
    let answer = grpc.unary(Request::new(message), path, Raw).await;
    verdict(answer.expect("a refusal is a denied response, never a gRPC error").into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_messages_are_refused_and_not_failed() {
    let corpus = Corpus::start().await;
    let token = good();
    let right = get("/public/place-of-path")
        .token(&token)
        .header("x-place-of-name", "place-of-value")
        .host("place-of-host")
        .rule("public")
        .message()
        .encode_to_vec();
    assert!(send(&corpus.doorward.check, right.clone()).await.allowed());
    let replaced = |from: &str, to: &[u8]| {
        let at = right.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut message = right.clone();
        message[at..at + to.len()].copy_from_slice(to);
        message
    };
    let mut rows: Vec<(String, Vec<u8>)> = Vec::new();
    for place in [
        "place-of-path",
        "place-of-name",
        "place-of-value",
        "place-of-host",
        "public",
        "doorward.rule",
        "GET",
        "authorization",
    ] {
        for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\x80"] {
            rows.push((format!("{bytes:x?} in {place}"), replaced(place, bytes)));
        }
    }
    for len in [1, 2, 3, 10, right.len() / 2, right.len() - 1] {
        rows.push((format!("the first {len} bytes"), right[..len].to_vec()));
    }
    rows.extend([
        ("a number for the attributes".to_owned(), vec![0x08, 0x01]),
        ("a length beyond the end".to_owned(), vec![0x0a, 0xff, 0xff, 0xff, 0x7f]),
        ("an endless number".to_owned(), vec![0xff; 20]),
        ("an end of a group".to_owned(), vec![0x0c]),
        ("the field number 0".to_owned(), vec![0x00, 0x00]),
        ("text".to_owned(), b"{\"attributes\":{}}".to_vec()),
        ("random".to_owned(), (0..4096).map(|n| u8::try_from(n * n % 251).unwrap()).collect()),
        // Groups within groups, deeper than any reader goes.
        ("deep groups".to_owned(), vec![0x7b; 100_000]),
        ("nothing".to_owned(), Vec::new()),
        ("an unknown field alone".to_owned(), vec![0x7a, 0x01, 0x00]),
    ]);
    let large = get("/public/x").header("x", "v".repeat(2 << 20)).rule("public").message().encode_to_vec();
    rows.push(("2 MB".to_owned(), large));
    let count = rows.len();
    for (what, message) in rows {
        let verdict = send(&corpus.doorward.check, message).await;
        assert_eq!((verdict.status, verdict.reason()), (400, "bad_request"), "{what}");
    }
    // Unknown fields behind a message are those of a newer Envoy.
    let newer = [right.clone(), vec![0x7a, 0x03, 0xff, 0xfe, 0xfd]].concat();
    assert!(send(&corpus.doorward.check, newer).await.allowed());
    assert!(corpus.checks.check(get("/").token(&token)).await.allowed(), "the process lives on");
    eprintln!("corpus messages: {count} to refuse, 2 to allow, 0 wrong");
}
