//! The YAML text as a tree of values, each with its line and column.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Options, Spanned};

use super::fault::{Fault, KeyPath, Place, Step, shown_location, shown_url};
use super::shown::Shown;

/// The largest file that is read, in bytes: 10,000 API keys take about 2 MB.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// The deepest nesting, more than any configuration of Doorward needs.
const MAX_DEPTH: usize = 32;

/// The properties of a value that follow from its key.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// How it may be shown; `None`: it may not.
    pub(super) shown: Option<Shown>,
    pub(super) is_secret: bool,
}

/// The written values and their places.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) tree: Value,
    places: HashMap<KeyPath, Place>,
    /// The properties of the values by the schema.
    forms: HashMap<KeyPath, Form>,
}

impl Source {
    /// Reads YAML; faults are syntax errors and duplicate keys.
    pub(super) fn parse(text: &str) -> (Self, Vec<Fault>) {
        Self::parse_within(text, MAX_DEPTH)
    }

    /// [`Self::parse`] for documents with deeper nesting.
    pub(crate) fn parse_within(text: &str, max_depth: usize) -> (Self, Vec<Fault>) {
        let mut source = Self { tree: Value::Object(Map::new()), ..Self::default() };
        let mut faults = Vec::new();
        match serde_saphyr::from_str_with_options::<Option<Spanned<Node>>>(text, options(max_depth)) {
            Ok(Some(root)) => {
                source.tree = source.take(root.value, &KeyPath::root(), &mut faults);
                if source.tree.is_null() {
                    source.tree = Value::Object(Map::new()); // The file has comments only.
                }
            }
            Ok(None) => {}
            Err(error) => faults.push(syntax_fault(&error)),
        }
        (source, faults)
    }

    fn take(&mut self, node: Node, path: &KeyPath, faults: &mut Vec<Fault>) -> Value {
        match node {
            Node::Scalar(value) => value,
            Node::List(items) => {
                let item = |(at, item): (usize, Spanned<Node>)| {
                    let path = path.index(at);
                    self.places.insert(path.clone(), Place::Line(item.referenced.line()));
                    self.take(item.value, &path, faults)
                };
                Value::Array(items.into_iter().enumerate().map(item).collect())
            }
            Node::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let path = path.key(&key.value);
                    let place = Place::Line(key.referenced.line());
                    if map.contains_key(&key.value) {
                        let first = match self.places.get(&path) {
                            Some(Place::Line(line)) => format!(" (first on line {line})"),
                            _ => String::new(),
                        };
                        let message = format!("the key is written twice{first}; write it once");
                        faults.push(Fault { place: Some(place), path, message, value: None });
                        continue;
                    }
                    self.places.insert(path.clone(), place);
                    let value = self.take(value.value, &path, faults);
                    map.insert(key.value, value);
                }
                Value::Object(map)
            }
        }
    }

    /// The place of a value, or of the node in which it is missing.
    pub(crate) fn place(&self, path: &KeyPath) -> Option<Place> {
        let mut path = path.clone();
        loop {
            if let Some(place) = self.places.get(&path) {
                return Some(place.clone());
            }
            path = path.parent()?;
        }
    }

    pub(super) fn get(&self, path: &KeyPath) -> Option<&Value> {
        path.steps().iter().try_fold(&self.tree, |value, step| match step {
            Step::Key(name) => value.get(name),
            Step::Index(index) => value.get(index),
        })
    }

    /// Replaces the value at a path; missing maps in the path are created, a list grows by one.
    pub(super) fn set(&mut self, path: &KeyPath, value: Value, place: Place) {
        let mut slot = &mut self.tree;
        let mut at = KeyPath::root();
        for step in path.steps() {
            at = at.join(step.clone());
            match step {
                Step::Key(name) => {
                    if !slot.is_object() {
                        *slot = Value::Object(Map::new());
                    }
                    let Some(map) = slot.as_object_mut() else { return };
                    slot = map.entry(name.clone()).or_insert(Value::Null);
                }
                Step::Index(index) => {
                    if !slot.is_array() {
                        *slot = Value::Array(Vec::new());
                    }
                    let Some(list) = slot.as_array_mut() else { return };
                    if *index >= list.len() {
                        list.push(Value::Null);
                    }
                    let last = list.len() - 1;
                    slot = &mut list[(*index).min(last)];
                }
            }
            self.places.entry(at.clone()).or_insert_with(|| place.clone());
        }
        *slot = value;
        self.places.insert(path.clone(), place);
    }

    /// Removes a faulty value, so that the rest can be read. In a list `neutral` replaces it, so that later items keep
    /// their numbers.
    pub(super) fn remove(&mut self, path: &KeyPath, neutral: Value) {
        let Some((parent, last)) = path.parent().zip(path.steps().last()) else {
            self.tree = Value::Object(Map::new());
            return;
        };
        let slot = parent.steps().iter().try_fold(&mut self.tree, |value, step| match step {
            Step::Key(name) => value.get_mut(name),
            Step::Index(index) => value.get_mut(index),
        });
        match (slot, last) {
            (Some(Value::Object(map)), Step::Key(name)) => {
                map.remove(name);
            }
            (Some(Value::Array(list)), Step::Index(index)) => {
                if let Some(item) = list.get_mut(*index) {
                    *item = neutral;
                }
            }
            _ => {}
        }
    }

    /// Learns the properties of the values from `form`, which is asked once for all items of a list.
    pub(super) fn judge(&mut self, form: impl Fn(&KeyPath) -> Form) {
        let mut known = HashMap::new();
        let mut form = |path: &KeyPath| *known.entry(path.of_any_item()).or_insert_with_key(&form);
        self.forms = self.places.keys().map(|path| (path.clone(), form(path))).collect();
    }

    /// How the value at a path may be shown.
    pub(super) fn shown(&self, path: &KeyPath) -> Option<Shown> {
        self.forms.get(path)?.shown
    }

    /// The texts with an unreplaced placeholder.
    pub(super) fn placeholders(&self) -> Vec<KeyPath> {
        let holds = |path: &&KeyPath| {
            let text = self.get(path).and_then(Value::as_str);
            let is_secret = self.forms.get(path).is_some_and(|form| form.is_secret);
            text.is_some_and(|text| is_placeholder(text, path, is_secret))
        };
        let mut found: Vec<_> = self.places.keys().filter(holds).cloned().collect();
        found.sort();
        found
    }

    /// A fault at a place, with its value if that may be shown.
    pub(super) fn fault(&self, path: &KeyPath, message: impl Into<String>) -> Fault {
        let value = self.get(path).and_then(|value| match self.shown(path) {
            Some(form) => shown(value, form),
            None => value.is_null().then(|| "null".to_owned()),
        });
        Fault { place: self.place(path), path: path.clone(), message: message.into(), value }
    }
}

/// Keys whose texts may contain brackets and other special characters.
fn is_of_paths(path: &KeyPath) -> bool {
    let is_match = |step: &Step| matches!(step, Step::Key(name) if name == "path" || name.starts_with("path_"));
    path.steps().last().is_some_and(is_match)
}

/// Whether a text has an unreplaced template of another tool: `${NAME}` of a shell, `$(NAME)` of Kubernetes, `{{ name
/// }}`, `{% … %}` and `<% … %>` of template engines, `#{NAME}`, `%NAME%`, `@NAME@`, `__NAME__` and `<name>` of build
/// tools, `$NAME`, and `{name}` in a URL. A secret may contain any of these characters: in a secret only `${NAME}`
/// counts, and a placeholder that is the whole text.
fn is_placeholder(text: &str, path: &KeyPath, is_secret: bool) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let opens_name = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_name = |name: &str, least: usize| {
        let fits = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        fits && name.bytes().filter(u8::is_ascii_uppercase).count() >= least && opens_name(name)
    };
    // A name in capitals between two such characters; `%AB%` may be escapes.
    let capitals = |sign: char| {
        let mut names = text.split(sign).skip(1).peekable();
        std::iter::from_fn(move || names.next().filter(|_| names.peek().is_some())).any(|name| is_name(name, 3))
    };
    // A whole word: base64url may have the same within one.
    let underscored = || {
        let mut words = text.split(|c| !is_word(c)).filter_map(|word| word.strip_prefix("__")?.strip_suffix("__"));
        words.any(|name| is_name(name, 2))
    };
    let between = |open: &str, close: &str| text.split_once(open).is_some_and(|(_, rest)| rest.contains(close));
    let angled = |text: &str| {
        text.split('<').skip(1).filter_map(|rest| rest.split_once('>')).any(|(name, _)| {
            let fits = |c: char| is_word(c) || matches!(c, ' ' | '-' | '.');
            name.len() <= 64 && opens_name(name) && name.chars().all(fits)
        })
    };
    let braced = |open: &str, close: char| {
        text.match_indices(open).any(|(at, _)| {
            let rest = &text[at + open.len()..];
            let name = rest.trim_start_matches(is_word);
            let ends = name.starts_with(close) || name.starts_with([':', '-', '?', '+']) && name.contains(close);
            opens_name(rest) && ends
        })
    };
    if is_secret {
        let is_all = |open: &str, close: &str| text.trim().starts_with(open) && text.trim().ends_with(close);
        let is_placeholder = is_all("$(", ")") && braced("$(", ')') || is_all("<", ">") && angled(text);
        return braced("${", '}') || is_placeholder || is_all("{{", "}}") || is_all("{%", "%}") || is_all("<%", "%>");
    }
    if braced("${", '}') || braced("$(", ')') || between("{{", "}}") || between("{%", "%}") || between("<%", "%>") {
        return true;
    }
    if is_of_paths(path) {
        return false; // These are a part of a pattern, or have another fault.
    }
    // `$web` may be the name of a container in a path; a host does not begin with `$`.
    let dollar = text.match_indices('$').any(|(at, _)| {
        let name = text[at + 1..].chars().take_while(|c| is_word(*c)).collect::<String>();
        opens_name(&name) && name.len() > 1 && !name.contains(|c: char| c.is_ascii_lowercase())
    });
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let host = rest.split('/').next().unwrap_or_default();
    let is_issuer =
        matches!(path.steps(), [Step::Key(first), _, Step::Key(name), ..] if first == "issuers" && name == "issuer");
    let of_url = scheme.len() < text.len() && (host.contains('$') || braced("{", '}') && !is_issuer);
    dollar || of_url || angled(text) || braced("#{", '}') || capitals('%') || capitals('@') || underscored()
}

/// The form of a value in a message; maps and lists are not shown.
fn shown(value: &Value, form: Shown) -> Option<String> {
    match value {
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) if form == Shown::Location => shown_location(text).map(|text| quoted(&text)),
        Value::String(text) if form == Shown::Url || text.contains("://") || text.contains('@') => {
            shown_url(text).map(|text| quoted(&text))
        }
        Value::String(text) if form == Shown::SecretFile && !Shown::is_file_name(text) => None,
        Value::String(text) => Some(quoted(text)),
        other => Some(other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", shorten(text))
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// A YAML scalar, for environment variables; `None` if it is more than a scalar.
pub(super) fn parse_scalar(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        return Some(Value::Null);
    }
    match serde_saphyr::from_str_with_options::<Node>(text, options(MAX_DEPTH)) {
        Ok(Node::Scalar(value)) => Some(value),
        _ => None,
    }
}

fn syntax_fault(error: &serde_saphyr::Error) -> Fault {
    let place = error.location().map(|location| Place::Line(location.line()));
    let message = error.without_snippet().to_string();
    let message = message.split('\n').next().unwrap_or_default();
    // Text between backticks is from the document, such as a password that begins with `!`.
    let message: String =
        message.split('`').enumerate().map(|(at, part)| if at % 2 == 1 { "`…`" } else { part }).collect();
    Fault { place, path: KeyPath::root(), message: format!("is not YAML: {message}"), value: None }
}

/// YAML 1.2, with bounds that no honest configuration reaches.
fn options(max_depth: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: max_depth,
            max_events: 2_000_000,
            max_nodes: 1_000_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
            max_documents: 1,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// A node of the document, with the lines of its parts.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar, a list or a map")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        // JSON Schema takes 1.0 for an integer, serde does not; beyond 2^53 neither is exact.
        #[expect(clippy::cast_possible_truncation, reason = "checked: whole and within 2^53")]
        let whole = (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i64);
        Ok(Node::Scalar(whole.map_or(value.into(), Value::from)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// The paths of all faults, to avoid reporting a consequence of a fault.
#[derive(Default)]
pub(super) struct Blamed(HashSet<KeyPath>);

impl Blamed {
    pub(super) fn add(&mut self, path: &KeyPath) {
        self.0.insert(path.clone());
    }

    /// Whether the value, a part of it or an enclosing value is faulty.
    pub(super) fn touches(&self, path: &KeyPath) -> bool {
        self.0.iter().any(|blamed| path.contains(blamed) || blamed.contains(path))
    }
}
