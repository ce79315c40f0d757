//! Closed sets with public labels.

/// Declares a closed set, a row for each member: its doc comment, its name and its label. The set has `ALL`, in the order
/// of the rows, and `label()`. A label is a text, or of the type that stands after `as`.
#[macro_export]
macro_rules! labels {
    ($(#[$outer:meta])* $vis:vis enum $set:ident { $($body:tt)+ }) => {
        $crate::labels! { $(#[$outer])* $vis enum $set as &'static str { $($body)+ } }
    };
    (
        $(#[$outer:meta])*
        $vis:vis enum $set:ident as $label:ty { $($(#[$doc:meta])* $member:ident = $text:expr,)+ }
    ) => {
        $(#[$outer])*
        $vis enum $set {
            $($(#[$doc])* $member,)+
        }

        impl $set {
            /// In the order of their declaration.
            pub const ALL: [Self; [$(Self::$member),+].len()] = [$(Self::$member),+];

            /// The stable public label.
            #[must_use]
            pub const fn label(self) -> $label {
                match self {
                    $(Self::$member => $text,)+
                }
            }
        }
    };
}
