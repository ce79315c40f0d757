//! The reader against prost: the same request of every message, and the same messages refused.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, Metadata, Node, SocketAddress, address,
};
use envoy_types::pb::envoy::service::auth::v3 as envoy;
use envoy_types::pb::envoy::service::auth::v3::attribute_context as context;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// The messages as prost reads them, with the fields that are read here. Maps are lists of entries, which is
/// the same on the wire; of a map prost does not check the wire type.
mod known {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CheckRequest {
        #[prost(message, optional, tag = "1")]
        pub attributes: Option<Attributes>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Attributes {
        #[prost(message, optional, tag = "1")]
        pub source: Option<Peer>,
        #[prost(message, optional, tag = "4")]
        pub request: Option<Request>,
        #[prost(message, repeated, tag = "10")]
        pub context_extensions: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Peer {
        #[prost(message, optional, tag = "1")]
        pub address: Option<Address>,
        #[prost(string, tag = "5")]
        pub certificate: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Address {
        #[prost(message, optional, tag = "1")]
        pub socket_address: Option<SocketAddress>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SocketAddress {
        #[prost(string, tag = "2")]
        pub address: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Entry {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Request {
        #[prost(message, optional, tag = "2")]
        pub http: Option<Http>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Http {
        #[prost(string, tag = "2")]
        pub method: String,
        #[prost(message, repeated, tag = "3")]
        pub headers: Vec<Entry>,
        #[prost(string, tag = "4")]
        pub path: String,
        #[prost(string, tag = "5")]
        pub host: String,
        #[prost(string, tag = "6")]
        pub scheme: String,
        #[prost(message, optional, tag = "13")]
        pub header_map: Option<HeaderMap>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HeaderMap {
        #[prost(message, repeated, tag = "1")]
        pub headers: Vec<Header>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Header {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "2")]
        pub value: String,
        #[prost(bytes = "vec", tag = "3")]
        pub raw_value: Vec<u8>,
    }
}

/// A request with its headers in an order that can be compared: those of the map by name.
#[derive(Debug, Eq, PartialEq)]
struct Owned {
    line: [String; 4],
    source: String,
    certificate: String,
    rule: Option<String>,
    map: BTreeMap<String, Vec<u8>>,
    raw: Vec<(String, Vec<u8>)>,
}

fn ours(message: &[u8], of_map: usize) -> Result<Owned, Unusable> {
    let read = CheckRequest::read(message, usize::MAX)?;
    let owned = |(name, value): &(&str, &[u8])| ((*name).to_owned(), value.to_vec());
    let (map, raw) = read.headers.split_at(of_map.min(read.headers.len()));
    Ok(Owned {
        line: [read.method, read.path, read.host, read.scheme].map(str::to_owned),
        source: read.source.to_owned(),
        certificate: read.certificate.to_owned(),
        rule: read.rule.map(str::to_owned),
        map: map.iter().map(owned).collect(),
        raw: raw.iter().map(owned).collect(),
    })
}

fn prost(message: &[u8]) -> Result<Owned, Unusable> {
    let message = known::CheckRequest::decode(message).map_err(|_| Unusable::Malformed)?;
    let attributes = message.attributes.ok_or(Unusable::NoRequest)?;
    let peer = attributes.source.unwrap_or_default();
    let address = peer.address.and_then(|address| address.socket_address);
    let mut extensions = attributes.context_extensions.into_iter();
    let rule = extensions.rfind(|entry| entry.key == RULE_EXTENSION).map(|entry| entry.value);
    let http = attributes.request.and_then(|request| request.http).ok_or(Unusable::NoRequest)?;
    let value = |header: known::Header| {
        let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
        (header.key, value)
    };
    Ok(Owned {
        line: [http.method, http.path, http.host, http.scheme],
        source: address.unwrap_or_default().address,
        certificate: peer.certificate,
        rule,
        map: http.headers.into_iter().map(|entry| (entry.key, entry.value.into_bytes())).collect(),
        raw: http.header_map.into_iter().flat_map(|map| map.headers).map(value).collect(),
    })
}

#[track_caller]
fn check(message: &[u8]) -> bool {
    let expected = prost(message);
    let of_map = expected.as_ref().map_or(0, |expected| expected.map.len());
    assert_eq!(ours(message, of_map), expected, "{message:x?}");
    expected.is_ok()
}

/// A message with every field that Envoy fills, and with unknown fields.
fn full(http: context::HttpRequest, rule: Option<&str>) -> envoy::CheckRequest {
    let extensions = [("doorward.rule", rule), ("other", Some("x"))];
    let socket = SocketAddress { address: "192.0.2.7".to_owned(), ..SocketAddress::default() };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    let (service, principal) = ("service".to_owned(), "spiffe://a".to_owned());
    let peer = context::Peer { address, service, principal, ..context::Peer::default() };
    envoy::CheckRequest {
        attributes: Some(envoy::AttributeContext {
            source: Some(peer.clone()),
            destination: Some(peer),
            request: Some(context::Request { http: Some(http), ..context::Request::default() }),
            context_extensions: extensions
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
            metadata_context: Some(Metadata::default()),
            tls_session: Some(context::TlsSession { sni: "shop.example.com".to_owned() }),
            ..envoy::AttributeContext::default()
        }),
    }
}

fn any_http() -> impl Strategy<Value = context::HttpRequest> {
    let text = "[ -~é]{0,12}";
    let header = ("[a-cA-C-]{0,3}", "[ -~]{0,200}", prop::collection::vec(any::<u8>(), 0..4));
    let header = header.prop_map(|(key, value, raw_value)| HeaderValue { key, value, raw_value });
    let header_map = prop::option::of(prop::collection::vec(header, 0..5).prop_map(|headers| HeaderMap { headers }));
    (text, text, text, prop::collection::hash_map("[a-cA-C-]{0,3}", text, 0..8), header_map, any::<i64>()).prop_map(
        |(method, path, host, headers, header_map, size)| context::HttpRequest {
            id: "id".to_owned(),
            scheme: "https".to_owned(),
            protocol: "HTTP/2".to_owned(),
            raw_body: vec![0xff; 3],
            method,
            path,
            host,
            headers,
            header_map,
            size,
            ..context::HttpRequest::default()
        },
    )
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    (any_http(), prop::option::of("[a-z]{0,4}")).prop_map(|(http, rule)| full(http, rule.as_deref()).encode_to_vec())
}

/// A change to a message: bytes overwritten, taken out, put in, or the rest cut off.
type Change = (prop::sample::Index, u8, Vec<u8>);

fn changed(mut message: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for (at, kind, bytes) in changes {
        let at = at.index(message.len() + 1);
        let end = (at + bytes.len()).min(message.len());
        match kind % 4 {
            0 => message[at..end].copy_from_slice(&bytes[..end - at]),
            1 => drop(message.drain(at..end)),
            2 => drop(message.splice(at..at, bytes)),
            _ => message.truncate(at),
        }
    }
    message
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    // Keys of fields of every type, lengths, and anything.
    let byte =
        prop_oneof![0..0x80_u8, Just(0x0a), Just(0x12), Just(0x1a), Just(0x22), Just(0x6a), Just(0x80), any::<u8>()];
    let change = (any::<prop::sample::Index>(), any::<u8>(), prop::collection::vec(byte, 0..6));
    prop::collection::vec(change, 1..4)
}

/// A CheckRequest as Envoy 1.40 sent it for a browser's request, the credentials replaced.
const CAPTURED: &[u8] = include_bytes!("captured.bin");

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn messages_that_prost_reads_are_read(http in any_http(), rule in prop::option::of("[a-z]{0,4}")) {
        let message = full(http.clone(), rule.as_deref()).encode_to_vec();
        prop_assert!(check(&message));
        prop_assert!(envoy::CheckRequest::decode(message.as_slice()).is_ok(), "by the full schema as well");
        let read = ours(&message, http.headers.len()).unwrap();
        prop_assert_eq!(read.line, [http.method, http.path, http.host, http.scheme]);
        prop_assert_eq!(read.rule, rule);
        prop_assert_eq!(read.map.len(), http.headers.len());
    }

    #[test]
    fn messages_are_merged_as_prost_merges_them(messages in prop::collection::vec(any_message(), 2..4)) {
        prop_assert!(check(&messages.concat()));
    }

    #[test]
    fn broken_messages_are_read_or_refused_as_prost_does(
        messages in prop::collection::vec(any_message(), 1..3), changes in any_changes(),
    ) {
        check(&changed(messages.concat(), changes));
    }

    #[test]
    fn a_captured_message_broken_in_any_way_is_read_as_prost_reads_it(changes in any_changes()) {
        check(&changed(CAPTURED.to_vec(), changes));
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_prost_does(message in prop::collection::vec(any::<u8>(), 0..40)) {
        check(&message);
    }
}

#[test]
fn a_captured_message_cut_off_or_flipped_anywhere_is_read_as_prost_reads_it() {
    assert!(check(CAPTURED));
    for at in 0..CAPTURED.len() {
        check(&CAPTURED[..at]);
        for bit in 0..8 {
            let mut message = CAPTURED.to_vec();
            message[at] ^= 1 << bit;
            check(&message);
        }
    }
}

#[test]
fn wire_types_numbers_and_groups_are_those_of_prost() {
    for message in [
        &[][..],
        &[0x0a, 0x00],
        &[0x08, 0x01],
        &[0x0c],
        &[0x0f],
        &[0x00, 0x00],
        &[0x7b, 0x7c],
        &[0x7b, 0x84, 0x01],
        &[0x7b, 0x0a, 0x01, 0x00, 0x7c],
        &[0x0b, 0x0c],
        &[0x7d, 0, 0, 0, 0],
        &[0x79, 0, 0, 0, 0, 0, 0, 0],
        &[0x78, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x78, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0x78, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        &[0xff, 0xff, 0xff, 0xff, 0x1f, 0x00],
        &[0xf8, 0xff, 0xff, 0xff, 0x0f, 0x00],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x8a, 0x00, 0x00],
    ] {
        check(message);
    }
    assert_eq!(CheckRequest::read(&vec![0x7b; 100_000], 10), Err(Unusable::Malformed), "groups without end");
}

#[test]
fn header_fields_are_bounded_as_they_are_sent() {
    let http = |map: usize, raw: usize| context::HttpRequest {
        headers: (0..map).map(|at| (at.to_string(), String::new())).collect(),
        header_map: Some(HeaderMap { headers: vec![HeaderValue::default(); raw] }),
        ..context::HttpRequest::default()
    };
    for (map, raw, fits) in [(10, 0, true), (0, 10, true), (5, 5, true), (11, 0, false), (0, 11, false), (6, 5, false)]
    {
        let message = full(http(map, raw), None).encode_to_vec();
        let read = CheckRequest::read(&message, 10).map(|_| ());
        assert_eq!(read, if fits { Ok(()) } else { Err(Unusable::TooManyHeaders) }, "{map} and {raw}");
        assert_eq!(CheckRequest::read(&[message.clone(), message].concat(), 10).is_err(), map > 0 || raw > 0);
    }
}

/// A well-formed message of another type is not a request.
#[test]
fn other_messages_are_no_requests() {
    let node = Node { id: "id".to_owned(), ..Node::default() };
    assert!(CheckRequest::read(&node.encode_to_vec(), 10).is_err());
}
