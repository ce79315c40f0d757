//! 200 light clients that read the log as an instance does: XREAD BLOCK, GET meta, INFO replication, a short sleep
//! after each answer, and writes to a map.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::spread;
use doorward::sources::ledger::RedisConfig;

use crate::ledger::support::{Instance, RedisServer, sign_out};

const FOLLOWERS: usize = 200;

/// The replies of a server that are needed here.
enum Reply {
    Text(String),
    Many(Vec<Reply>),
    Nothing,
}

impl Reply {
    /// One reply at the start of the bytes, and its length; `None` if it is incomplete.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[1..end]).unwrap();
        let mut at = end + 2;
        match (bytes[0], line.parse::<i64>()) {
            (b'$' | b'*', Ok(-1)) => Some((Self::Nothing, at)),
            (b'$', Ok(length)) => {
                let end = at + usize::try_from(length).unwrap();
                let text = bytes.get(at..end)?;
                bytes.get(end..end + 2)?;
                Some((Self::Text(String::from_utf8(text.to_vec()).unwrap()), end + 2))
            }
            (b'*', Ok(count)) => {
                let mut many = Vec::new();
                for _ in 0..count {
                    let (reply, length) = Self::parse(bytes.get(at..).filter(|rest| !rest.is_empty())?)?;
                    many.push(reply);
                    at += length;
                }
                Some((Self::Many(many), at))
            }
            _ => Some((Self::Text(line.to_owned()), at)),
        }
    }

    fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    fn parts(&self) -> &[Self] {
        if let Self::Many(parts) = self { parts } else { &[] }
    }
}

/// Follows until stopped; the time at which each revocation was applied.
async fn follow(server: SocketAddr, stop: CancellationToken) -> HashMap<String, Instant> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut applied, mut last, mut asked) = (HashMap::new(), "0-0".to_owned(), Instant::now());
    let mut bytes = Vec::with_capacity(1 << 20);
    while !stop.is_cancelled() {
        let ask_epoch = asked.elapsed() >= Duration::from_millis(100);
        let mut commands = format!("XREAD COUNT 1000 BLOCK 400 STREAMS doorward:{{r}}:log {last}\r\n");
        if ask_epoch {
            commands += "GET doorward:{r}:meta\r\nINFO replication\r\n";
            asked = Instant::now();
        }
        stream.write_all(commands.as_bytes()).await.unwrap();
        let mut empty = true;
        for _ in 0..=2 * usize::from(ask_epoch) {
            let reply = loop {
                if let Some((reply, length)) = Reply::parse(&bytes).filter(|_| !bytes.is_empty()) {
                    bytes.drain(..length);
                    break reply;
                }
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
            };
            let entries = reply.parts().first().and_then(|stream| stream.parts().get(1));
            for entry in entries.map(Reply::parts).unwrap_or_default() {
                empty = false;
                entry.parts()[0].text().clone_into(&mut last);
                let fields = entry.parts()[1].parts();
                let id = fields.chunks(2).find(|pair| pair[0].text() == "id").unwrap()[1].text();
                applied.insert(id.to_owned(), Instant::now());
            }
        }
        if !empty {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    applied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn followers() {
    for rate in [100, 1000] {
        let redis = RedisServer::start(&[]).await;
        // Patient: on a machine that is too small for the rate, the lag is the result.
        let patience = Duration::from_secs(30);
        let config = RedisConfig { command_deadline: patience, write_deadline: patience, ..redis.config() };
        let writer = Arc::new(Instance::launch(config));
        writer.becomes_ready().await;
        let (stop, mut following) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..FOLLOWERS {
            following.spawn(follow(SocketAddr::from(([127, 0, 0, 1], redis.port)), stop.clone()));
        }
        let acknowledged = Arc::new(Mutex::new(HashMap::new()));
        let (began, count) = (Instant::now(), rate * 10);
        let mut writing = JoinSet::new();
        for n in 0..count {
            tokio::time::sleep_until((began + Duration::from_secs(1) * n / rate).into()).await;
            let (writer, acknowledged) = (Arc::clone(&writer), Arc::clone(&acknowledged));
            writing.spawn(async move {
                let id = format!("{rate}-{n}");
                writer.replica.revoke(vec![sign_out(&id)]).await.unwrap();
                acknowledged.lock().unwrap().insert(id, Instant::now());
            });
        }
        while writing.join_next().await.is_some() {}
        let took = began.elapsed();
        tokio::time::sleep(Duration::from_secs(2) + took / 2).await;
        stop.cancel();
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        let mut lags = Vec::new();
        while let Some(applied) = following.join_next().await {
            let applied = applied.unwrap();
            assert_eq!(applied.len(), acknowledged.len(), "every follower has every revocation");
            lags.extend(acknowledged.iter().map(|(id, at)| applied[id].saturating_duration_since(*at)));
        }
        println!("{FOLLOWERS} followers, {count} revocations in {took:?}: answered to applied, {}", spread(lags));
    }
}
