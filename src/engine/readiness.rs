//! Changes of readiness: in the log, and on a watch channel.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::http::{Missing, Readiness};
use crate::clock::Steady;
use crate::state::State;

/// The time for which a part must be missing before the log warns: at every start keys and the log of revocations
/// take a moment to load, and a failover is over by then.
const LASTING: Duration = Duration::from_secs(5);

/// Keeps `sender` in step with `/readyz`, and logs each change of readiness with its cause.
pub(super) async fn watch(
    state: Arc<State>,
    readiness: Arc<Readiness>,
    sender: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut last: Option<Vec<Missing>> = None;
    let mut since = Steady::now();
    let mut warned = false;
    loop {
        let missing = readiness.missing(&state, false);
        if last.as_ref() != Some(&missing) {
            sender.send_if_modified(|ready| std::mem::replace(ready, missing.is_empty()) != missing.is_empty());
            match missing.as_slice() {
                [] => info!("ready"),
                missing => info!(missing = Missing::parts(missing), why = Missing::reasons(missing), "not ready"),
            }
            if missing.is_empty() || last.as_ref().is_none_or(Vec::is_empty) {
                (since, warned) = (Steady::now(), false);
            }
            last = Some(missing);
        }
        if let Some(missing) = last.as_deref().filter(|missing| !missing.is_empty() && !warned)
            && since.elapsed() > LASTING
        {
            let seconds = since.elapsed().as_secs();
            warn!(missing = Missing::parts(missing), why = Missing::reasons(missing), seconds, "still not ready");
            warned = true;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = stop.cancelled() => return,
        }
    }
}
