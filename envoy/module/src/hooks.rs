//! The functions that Envoy calls. Each is guarded: a panic refuses its request, or does nothing.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use crate::abi::{self, Buffer, Status, Stream};
use crate::config::{FilterConfig, RouteConfig};
use crate::faults;
use crate::filter::{Filter, refuse_broken};

/// The result of `work`; `None` if it panicked. A panic is logged, without its message.
fn guard<T>(hook: &str, work: impl FnOnce() -> T) -> Option<T> {
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        faults::meet(hook);
        work()
    }));
    guarded.ok()
}

/// Destroys a value of this library; a panic before or within leaves nothing behind.
fn destroy<T>(hook: &str, value: T) {
    guard(hook, || ());
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Stands for a filter that could not be created, whose request is refused. With null Envoy would decide.
static BROKEN: u8 = 0;

fn broken() -> *const Filter {
    (&raw const BROKEN).cast()
}

/// The filter of a stream, held for as long as a hook runs: Envoy may destroy it from within a call to Envoy. `None`: it
/// could not be made.
///
/// # Safety
///
/// `filter` must be what [`envoy_dynamic_module_on_http_filter_new`] returned, not destroyed, on its thread.
unsafe fn hold(filter: *const Filter) -> Option<Rc<Filter>> {
    if filter.is_null() || filter == broken() {
        return None;
    }
    // SAFETY: it was made by `Rc::into_raw`, and the caller guarantees its lifetime.
    unsafe {
        Rc::increment_strong_count(filter);
        Some(Rc::from_raw(filter))
    }
}

/// Reports why a configuration is refused.
fn refused<T>(result: Result<T, String>) -> Option<T> {
    result.inspect_err(|error| error.lines().for_each(|line| abi::log_error(&format!("doorward: {line}")))).ok()
}

/// The version of the interface that Envoy 1.38 to 1.40 name; another one only makes Envoy warn.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    c"v0.2.0".as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    _: *mut c_void,
    name: Buffer,
    config: Buffer,
) -> *const FilterConfig {
    let made = guard("config_new", || {
        // SAFETY: both live until the hook ends.
        let (name, config) = unsafe { (name.bytes(), config.bytes()) };
        let name = String::from_utf8_lossy(name);
        refused(FilterConfig::new(&name, config, abi::is_validation_mode())).map(|made| Arc::into_raw(Arc::new(made)))
    });
    made.flatten().unwrap_or(ptr::null()) // Envoy refuses the configuration, and keeps the one before.
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const FilterConfig) {
    // SAFETY: it was made by `Arc::into_raw`, and Envoy destroys it once.
    destroy("config_destroy", unsafe { Arc::from_raw(config) });
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _: Buffer,
    config: Buffer,
) -> *mut RouteConfig {
    let made = guard("route_config_new", || {
        // SAFETY: it lives until the hook ends.
        refused(RouteConfig::new(unsafe { config.bytes() })).map(|made| Box::into_raw(Box::new(made)))
    });
    made.flatten().unwrap_or(ptr::null_mut())
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(config: *mut RouteConfig) {
    // SAFETY: it was made by `Box::into_raw`, and Envoy destroys it once.
    destroy("route_config_destroy", unsafe { Box::from_raw(config) });
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const FilterConfig,
    _: *mut c_void,
) -> *const Filter {
    let made = guard("filter_new", || {
        // SAFETY: it was made by `Arc::into_raw`, and lives as long as the filters that Envoy makes with it.
        let config = unsafe {
            Arc::increment_strong_count(config);
            Arc::from_raw(config)
        };
        Rc::into_raw(Rc::new(Filter::new(config)))
    });
    made.unwrap_or_else(broken)
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_destroy(filter: *const Filter) {
    if filter.is_null() || filter == broken() {
        return;
    }
    // SAFETY: it was made by `Rc::into_raw`, and Envoy destroys it once.
    destroy("filter_destroy", unsafe { Rc::from_raw(filter) });
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    envoy: *mut c_void,
    filter: *const Filter,
    is_whole: bool,
) -> Status {
    let decided = guard("request_headers", || {
        // SAFETY: Envoy passes matching pointers, and all route configurations are of this type.
        let (filter, stream) = unsafe { (hold(filter)?, Stream::new(envoy)?) };
        // SAFETY: as above.
        let route = unsafe { stream.route_config::<RouteConfig>() };
        Some(filter.request_headers(stream, route.map(|route| route.rule.as_str()), is_whole))
    });
    // A panic comes before the last call to Envoy: the stream is as it was.
    // SAFETY: as above.
    decided.flatten().unwrap_or_else(|| unsafe { Stream::new(envoy) }.map_or(Status::StopIteration, refuse_broken))
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(envoy: *mut c_void, filter: *const Filter, _: u64) {
    // SAFETY: Envoy passes matching pointers.
    let done = guard("scheduled", || unsafe {
        if let (Some(filter), Some(stream)) = (hold(filter), Stream::new(envoy)) {
            filter.scheduled(stream);
        }
    });
    if done.is_none() {
        // SAFETY: as above. The stream waits, or is to be ended.
        unsafe { Stream::new(envoy) }.map(refuse_broken);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    envoy: *mut c_void,
    filter: *const Filter,
    is_whole: bool,
) -> u32 {
    // SAFETY: Envoy passes matching pointers.
    let done = guard("response_headers", || unsafe {
        if let (Some(filter), Some(stream)) = (hold(filter), Stream::new(envoy)) {
            filter.response_headers(stream, is_whole);
        }
    });
    if done.is_some() {
        return CONTINUE;
    }
    // SAFETY: as above. The response would be a stream that no sign-out ends.
    unsafe { Stream::new(envoy) }.map_or(Status::StopIteration, refuse_broken) as u32
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(_: *mut c_void, filter: *const Filter) {
    // SAFETY: Envoy passes its filter.
    guard("stream_complete", || unsafe { hold(filter) }.map(|filter| filter.leave()));
}

/// The stream is answered: by this filter, another one, or a timeout of Envoy's.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_local_reply(
    _: *mut c_void,
    filter: *const Filter,
    _: u32,
    _: Buffer,
    _: bool,
) -> u32 {
    // SAFETY: Envoy passes its filter.
    guard("local_reply", || unsafe { hold(filter) }.map(|filter| filter.leave()));
    CONTINUE
}

/// The first value of each status type.
const CONTINUE: u32 = 0;

/// Envoy requires these symbols of a module.
macro_rules! unused {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $argument),*) $(-> $result)? { $(CONTINUE as $result)? }
    )*};
}

unused! {
    envoy_dynamic_module_on_http_filter_request_body(*mut c_void, *const Filter, bool) -> u32;
    envoy_dynamic_module_on_http_filter_request_trailers(*mut c_void, *const Filter) -> u32;
    envoy_dynamic_module_on_http_filter_response_body(*mut c_void, *const Filter, bool) -> u32;
    envoy_dynamic_module_on_http_filter_response_trailers(*mut c_void, *const Filter) -> u32;
    envoy_dynamic_module_on_http_filter_http_callout_done(
        *mut c_void, *const Filter, u64, u32, *mut c_void, usize, *mut c_void, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(
        *mut c_void, *const Filter, u64, *mut c_void, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(*mut c_void, *const Filter, u64, *const c_void, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(*mut c_void, *const Filter, u64, *mut c_void, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(*mut c_void, *const Filter, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(*mut c_void, *const Filter, u64, u32);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(*mut c_void, *const Filter);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(*mut c_void, *const Filter);
}
