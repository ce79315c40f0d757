//! Prometheus instruments, declared as a table beside their use: a row for each, with its help text, name, labels and
//! buckets.

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

/// The description of one instrument.
pub struct Row {
    pub name: &'static str,
    pub help: &'static str,
    /// The names of its labels; their values come from closed sets.
    pub labels: &'static [&'static str],
    /// The upper bounds of a histogram's buckets, in seconds.
    pub buckets: &'static [f64],
    /// The type in the exposition format: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
}

/// A kind of instrument that a row can be made into.
pub trait Instrument: Collector + Clone + Sized + 'static {
    /// See [`Row::kind`].
    const KIND: &'static str;

    /// Fails on a name or label that Prometheus does not allow.
    fn create(row: &Row) -> Result<Self, Error>;
}

macro_rules! instrument {
    ($($instrument:ident, $kind:literal, $row:ident => $create:expr;)+) => {
        $(impl Instrument for $instrument {
            const KIND: &'static str = $kind;

            fn create($row: &Row) -> Result<Self, Error> {
                $create
            }
        })+
    };
}

instrument! {
    IntCounter, "counter", row => Self::new(row.name, row.help);
    IntCounterVec, "counter", row => Self::new(Opts::new(row.name, row.help), row.labels);
    IntGauge, "gauge", row => Self::new(row.name, row.help);
    IntGaugeVec, "gauge", row => Self::new(Opts::new(row.name, row.help), row.labels);
    Gauge, "gauge", row => Self::new(row.name, row.help);
    GaugeVec, "gauge", row => Self::new(Opts::new(row.name, row.help), row.labels);
    Histogram, "histogram", row => {
        Self::with_opts(HistogramOpts::new(row.name, row.help).buckets(row.buckets.to_vec()))
    };
}

/// Declares a struct of instruments, a row for each: the doc comment is the help text, `by` names the labels and `in`
/// the buckets. Clones share their values.
macro_rules! instruments {
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { &$buckets };
    (
        $(#[$meta:meta])*
        $vis:vis struct $table:ident {
            $(
                $(#[doc = $help:literal])+
                $row_vis:vis $row:ident: $kind:ident = $name:literal $(by [$($label:literal),+])? $(in $buckets:expr)?,
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone)]
        $vis struct $table {
            $($(#[doc = $help])+ $row_vis $row: prometheus::$kind,)+
        }

        impl $table {
            /// The rows in the order of their declaration.
            pub const ROWS: &'static [$crate::instruments::Row] = &[
                $($crate::instruments::Row {
                    name: $name,
                    help: concat!($($help),+).trim_ascii(),
                    labels: &[$($($label),+)?],
                    buckets: $crate::instruments::instruments!(@buckets $($buckets)?),
                    kind: <prometheus::$kind as $crate::instruments::Instrument>::KIND,
                },)+
            ];

            /// Fails on a name or label that Prometheus does not allow.
            fn create() -> Result<Self, prometheus::Error> {
                let mut rows = Self::ROWS.iter();
                let mut row = || rows.next().ok_or_else(|| prometheus::Error::Msg("a row each".to_owned()));
                Ok(Self { $($row: $crate::instruments::Instrument::create(row()?)?,)+ })
            }

            /// Fails if two instruments of the registry share a name.
            pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
                $(registry.register(Box::new(self.$row.clone()))?;)+
                Ok(())
            }
        }
    };
}
pub(crate) use instruments;
