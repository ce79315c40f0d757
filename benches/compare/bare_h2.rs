//! A baseline of `compare.sh`: the complete decision behind the h2 library alone, without hyper, tonic,
//! limits and time-outs. With `DUMP` it writes the first message to a file and allows all.
//!
//!     compare-h2 unix:PATH doorward.yaml
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it stops where it cannot measure, and ends when told"
)]

use std::path::Path;

use bytes::Bytes;
use doorward::api::{Caller, check};
use doorward::config::Config;
use doorward::engine::assemble;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // As Doorward has.

#[tokio::main(flavor = "current_thread")] // As Doorward keeps a connection on one thread.
async fn main() {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("where to listen");
    let config = args.next().expect("a configuration");
    let config = Config::load(Path::new(&config), std::iter::empty()).expect("a good configuration").config;
    let (state, _) = assemble::state(&config).expect("what it asks for");
    tokio::spawn(state.replica.clone().run(CancellationToken::new()));
    let service = check::service(state, config.limits.grpc_message_bytes, config.limits.request_headers);

    let path = address.strip_prefix("unix:").expect("a Unix socket");
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, service.clone()));
    }
}

async fn serve(stream: UnixStream, service: check::CheckServer) -> Option<()> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2048).initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.ok()?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut message = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                message.extend_from_slice(&data);
            }
            if let Ok(file) = std::env::var("DUMP") {
                std::fs::write(file, &message).ok()?;
            }
            let message = Bytes::from(message).slice(5..);
            let answer = service.decide(Ok(message), Caller::default()).await;
            let mut response = Response::new(());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let mut stream = respond.send_response(response, false).ok()?;
            stream.send_data(answer.into(), false).ok()?;
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers).ok()
        });
    }
    Some(())
}
