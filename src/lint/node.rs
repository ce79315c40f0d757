//! A value of a configuration, read as Envoy reads it.

use serde_json::Value;

use super::scalar;
use crate::config::KeyPath;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) path: KeyPath,
    pub(super) value: &'a Value,
    /// The last part of the type: `ExtAuthz`; empty without a type.
    pub(super) kind: &'a str,
}

impl<'a> Node<'a> {
    /// A `TypedStruct`, as Istio writes it, is the message that it wraps.
    pub(super) fn new(path: KeyPath, value: &'a Value) -> Self {
        let kind = |field: &str| value.get(field)?.as_str()?.rsplit(['.', '/']).next();
        match (kind("@type"), value.get("value")) {
            (Some("TypedStruct"), Some(within)) => {
                let kind = kind("type_url").or_else(|| kind("typeUrl")).unwrap_or_default();
                Self { path: path.key("value"), value: within, kind }
            }
            (kind, _) => Self { path, value, kind: kind.unwrap_or_default() },
        }
    }

    /// A field by its name in the API; JSON may write it in camel case.
    pub(super) fn get(&self, field: &str) -> Option<Self> {
        let written = |name: &str| {
            let value = self.value.get(name).filter(|value| !value.is_null())?;
            Some(Self::new(self.path.key(name), value))
        };
        written(field).or_else(|| field.contains('_').then(|| written(&camel_case(field)))?)
    }

    /// A field of a field: `grpc_service.timeout`.
    pub(super) fn at(&self, fields: &str) -> Option<Self> {
        fields.split('.').try_fold(self.clone(), |node, field| node.get(field))
    }

    pub(super) fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(at, value)| Self::new(path.index(at), value))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let path = self.path.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(name, value)| (name.as_str(), Self::new(path.key(name), value)))
    }

    /// The items of a field; none if it is missing.
    pub(super) fn list(&self, fields: &str) -> impl Iterator<Item = Self> + use<'a> {
        self.at(fields).into_iter().flat_map(|list| list.items())
    }

    pub(super) fn text(&self, fields: &str) -> Option<&'a str> {
        self.at(fields)?.value.as_str()
    }

    pub(super) fn number(&self, fields: &str) -> Option<f64> {
        scalar::number(self.at(fields)?.value)
    }

    /// The name of an enum's value; `names` stand in the order of their numbers, from 0.
    pub(super) fn choice(&self, names: &[&'static str]) -> Option<&'static str> {
        scalar::choice(self.value, names)
    }

    pub(super) fn is(&self, fields: &str) -> bool {
        self.at(fields).is_some_and(|node| node.is_true())
    }

    pub(super) fn is_true(&self) -> bool {
        scalar::boolean(self.value) == Some(true)
    }

    pub(super) fn is_false(&self) -> bool {
        scalar::boolean(self.value) == Some(false)
    }

    /// Whether this is the configuration of Doorward's module, by its name or by its file (`DynamicModuleConfig.module`).
    pub(super) fn is_module(&self) -> bool {
        let file = || {
            let module = self.at("dynamic_module_config.module")?;
            let path = module.text("local.filename").or_else(|| module.text("remote.http_uri.uri"))?;
            path.rsplit('/').next()
        };
        self.kind == "DynamicModuleFilter"
            && (self.text("dynamic_module_config.name") == Some("doorward_envoy")
                || file() == Some("libdoorward_envoy.so"))
    }

    /// Whether Doorward decides by this filter: by `ext_authz`, or by its module.
    pub(super) fn is_check(&self) -> bool {
        self.kind == "ExtAuthz" || self.is_module()
    }

    /// A duration in seconds.
    pub(super) fn seconds(&self, fields: &str) -> Option<f64> {
        scalar::seconds(self.at(fields)?.value)
    }

    /// Whether a test holds for this value or any within it.
    pub(super) fn any(&self, test: &mut dyn FnMut(&Self) -> bool) -> bool {
        test(self) || self.items().any(|item| item.any(test)) || self.entries().any(|(_, value)| value.any(test))
    }
}

fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        name + &head.to_ascii_uppercase() + tail
    })
}
