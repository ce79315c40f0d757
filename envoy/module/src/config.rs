//! The filter's configuration, and the engines of the process.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorward::config::Loaded;
use doorward::engine::{Hosted, Source};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::abi::MetadataSetter;

/// The written form of `filter_config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    config: Option<PathBuf>,
    inline: Option<Value>,
    #[serde(default)]
    facts: WrittenFacts,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    clear_route_cache: bool,
    #[serde(default = "yes")]
    end_streams: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenFacts {
    #[default]
    FilterState,
    Metadata,
    None,
}

fn default_namespace() -> String {
    "doorward".to_owned()
}

const fn yes() -> bool {
    true
}

/// The destination of a decision's facts.
#[derive(Clone, Copy)]
pub enum Facts {
    /// One value: a JSON object.
    FilterState,
    /// A whole `google.protobuf.Struct`.
    Struct(MetadataSetter),
    /// Key by key.
    Keys,
    None,
}

impl Facts {
    /// A byte for each form.
    pub const fn tag(self) -> u8 {
        match self {
            Self::FilterState => 1,
            Self::Struct(_) => 2,
            Self::Keys => 3,
            Self::None => 4,
        }
    }
}

/// A filter's configuration.
pub struct FilterConfig {
    /// `None` if Envoy only validates.
    engine: Option<Arc<Running>>,
    pub facts: Facts,
    /// The key of the filter state, or the namespace of the metadata.
    pub namespace: String,
    pub clear_route_cache: bool,
    /// Whether a stream ends when its token is not accepted any more, as far as its rule requires it.
    pub ends_streams: bool,
}

/// The most engines of one process: each has the revocations, a thread and listeners.
const MAX_ENGINES: usize = 16;
/// The longest wait of Envoy's start for an engine to be ready.
const FIRST_READY: Duration = Duration::from_secs(5);

impl FilterConfig {
    /// Parses it and starts its engine, if that is not running; `name`: the `filter_name` of Envoy's configuration.
    pub fn new(name: &str, text: &[u8], validates: bool) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(text).map_err(|error| {
            format!(
                "filter_config must be an object such as {{\"config\": \"/etc/doorward/doorward.yaml\"}}, with `config` or \
                 `inline`, and optionally `facts` (filter_state, metadata, none), `namespace`, `clear_route_cache`, \
                 `end_streams`: {error}"
            )
        })?;
        let fits =
            (1..=128).contains(&written.namespace.len()) && written.namespace.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err("filter_config.namespace must be 1 to 128 visible ASCII characters".to_owned());
        }
        let place = match (written.config, written.inline) {
            (Some(file), None) => Place::File(file),
            (None, Some(inline)) => Place::Inline(name.to_owned(), inline.to_string().into()),
            _ => return Err("filter_config must have one of `config` and `inline`".to_owned()),
        };
        let engine = if validates { load(&place.source().0).map(|_| None) } else { place.engine().map(Some) }?;
        let facts = match written.facts {
            WrittenFacts::FilterState => Facts::FilterState,
            WrittenFacts::Metadata => MetadataSetter::find().map_or(Facts::Keys, Facts::Struct),
            WrittenFacts::None => Facts::None,
        };
        Ok(Self {
            engine,
            facts,
            namespace: written.namespace,
            clear_route_cache: written.clear_route_cache,
            ends_streams: written.end_streams,
        })
    }

    pub fn engine(&self) -> Option<&Hosted> {
        self.engine.as_ref().map(|running| &running.hosted)
    }
}

/// The source of Doorward's configuration.
enum Place {
    File(PathBuf),
    /// By the name of the filter.
    Inline(String, Arc<str>),
}

struct Running {
    hosted: Hosted,
    /// For inline text.
    text: Option<watch::Sender<Arc<str>>>,
}

/// The identity of an engine: the file's canonical path, or the name of the filter.
type Key = (bool, PathBuf);

/// The engines of the process. An engine is not stopped when no filter uses it: a filter that is added again must find
/// its revocations.
static ENGINES: Mutex<BTreeMap<Key, Arc<Running>>> = Mutex::new(BTreeMap::new());

impl Place {
    fn key(&self) -> Key {
        match self {
            Self::File(file) => (true, file.canonicalize().unwrap_or_else(|_| file.clone())),
            Self::Inline(name, _) => (false, name.into()),
        }
    }

    fn source(&self) -> (Source, Option<watch::Sender<Arc<str>>>) {
        match self {
            Self::File(file) => (Source::File(file.clone()), None),
            Self::Inline(name, text) => {
                let (sender, text) = watch::channel(text.clone());
                (Source::Handed { name: format!("filter_config.inline of `{name}`"), text }, Some(sender))
            }
        }
    }

    /// The engine of this configuration; it receives a new text.
    fn engine(&self) -> Result<Arc<Running>, String> {
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key();
        if let Some(running) = engines.get(&key) {
            if let (Some(sender), Self::Inline(_, text)) = (&running.text, self)
                && *sender.borrow() != *text
            {
                load(&self.source().0)?; // Envoy keeps the old configuration, and so must the engine.
                sender.send_replace(text.clone());
            }
            return Ok(running.clone());
        }
        if engines.len() >= MAX_ENGINES {
            return Err(format!(
                "there are {MAX_ENGINES} engines: one for each file, and for each `filter_name` with `inline`"
            ));
        }
        let (source, text) = self.source();
        let loaded = load(&source)?;
        let failed = |error: &dyn Display| format!("the engine does not start: {error:#}");
        let hosted = Hosted::start(loaded, source).map_err(|error| failed(&error))?;
        let running = Arc::new(Running { hosted, text });
        engines.insert(key, running.clone());
        drop(engines);
        // Envoy serves no requests yet at its start. At an update the engine is running.
        let _ = running.hosted.wait_ready(FIRST_READY);
        Ok(running)
    }
}

fn load(source: &Source) -> Result<Loaded, String> {
    let loaded = source.load().map_err(|faults| faults.to_string())?;
    // The interface reads single values of metadata, and the name of the tool stands within another value. A reload of
    // the file can still bring such a rule: it refuses the requests that it is asked about.
    match loaded.config.rule_for_messages() {
        Some(rule) => Err(format!(
            "the rule `{}` has `match.mcp`, which a module cannot decide: Envoy does not send it the message; use \
             ext_authz with metadata_context_namespaces",
            rule.name
        )),
        None => Ok(loaded),
    }
}

/// The per-route configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The rule that decides, independent of the path.
    pub rule: String,
}

impl RouteConfig {
    pub fn new(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| {
            format!("the configuration of a route must be an object such as {{\"rule\": \"NAME\"}}: {error}")
        })
    }
}
