//! A host in the place of Envoy, for tests: a getter's result is overwritten and freed at the next setter, as Envoy
//! may do, so that a plan that still borrows from the request would fail.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

use crate::abi::{Buffer, Stream};

/// A stream of this host.
#[derive(Default)]
pub struct Host {
    request: RefCell<Vec<(String, Vec<u8>)>>,
    response: RefCell<Vec<(String, Vec<u8>)>>,
    /// The values that getters returned since the last setter. No boxes: moving a box ends the validity of pointers
    /// into it.
    lent: RefCell<Vec<Vec<u8>>>,
    pub state: RefCell<Vec<(String, Vec<u8>)>>,
    pub answered: RefCell<Option<Answered>>,
    pub resumed: Cell<bool>,
    pub ended: RefCell<Option<String>>,
    /// Wakers that were made and not deleted.
    pub wakers: Cell<usize>,
}

/// Status, headers, body and details of an answer.
type Answered = (u32, Vec<(String, String)>, String, String);

impl Host {
    pub fn new(headers: &[(&str, &str)]) -> Box<Self> {
        let host = Self::default();
        *host.request.borrow_mut() =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Box::new(host)
    }

    pub fn stream(&self) -> Stream<'_> {
        // SAFETY: the host is its own filter, and lives as long as the stream.
        unsafe { Stream::new(ptr::from_ref(self).cast_mut().cast()) }.unwrap()
    }

    /// The current request headers.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.request.borrow();
        let (_, value) = headers.iter().find(|(known, _)| known == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    pub fn begin_response(&self, headers: &[(&str, &str)]) {
        *self.response.borrow_mut() =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    }

    fn lend(&self, bytes: &[u8]) -> Buffer {
        let copy = bytes.to_vec();
        let buffer = Buffer::new(&copy);
        self.lent.borrow_mut().push(copy);
        buffer
    }

    fn take_back(&self) {
        for mut lent in self.lent.take() {
            lent.fill(b'!');
        }
    }

    fn headers(&self, kind: u32) -> &RefCell<Vec<(String, Vec<u8>)>> {
        if kind == 0 { &self.request } else { &self.response }
    }
}

/// # Safety
///
/// `filter` must be a [`Host`].
unsafe fn host<'a>(filter: *mut c_void) -> &'a Host {
    // SAFETY: guaranteed by the caller.
    unsafe { &*filter.cast::<Host>() }
}

/// # Safety
///
/// The buffer must be valid for this call.
unsafe fn text(buffer: Buffer) -> String {
    // SAFETY: guaranteed by the caller.
    String::from_utf8_lossy(unsafe { buffer.bytes() }).into_owned()
}

macro_rules! callbacks {
    ($($name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) $(-> $result)? {
            // SAFETY: the library calls its host with the filter that it was given, and with valid buffers.
            #[allow(unused_unsafe, reason = "some use nothing unsafe")]
            unsafe { $body }
        }
    )*};
}

callbacks! {
    envoy_dynamic_module_callback_http_get_headers_size(filter: *mut c_void, kind: u32) -> usize {
        host(filter).headers(kind).borrow().len()
    }
    envoy_dynamic_module_callback_http_get_headers(filter: *mut c_void, kind: u32, fields: *mut [Buffer; 2]) -> bool {
        let host = host(filter);
        for (at, (name, value)) in host.headers(kind).borrow().iter().enumerate() {
            *fields.add(at) = [host.lend(name.as_bytes()), host.lend(value)];
        }
        true
    }
    envoy_dynamic_module_callback_http_get_header(
        filter: *mut c_void, kind: u32, name: Buffer, value: *mut Buffer, index: usize, count: *mut usize
    ) -> bool {
        let (host, name) = (host(filter), text(name));
        let headers = host.headers(kind).borrow();
        let found: Vec<_> = headers.iter().filter(|(known, _)| *known == name).collect();
        *count = found.len();
        if let Some((_, found)) = found.get(index) {
            *value = host.lend(found);
        }
        index < found.len()
    }
    envoy_dynamic_module_callback_http_set_header(filter: *mut c_void, kind: u32, name: Buffer, value: Buffer) -> bool {
        let host = host(filter);
        let (name, is_removed, value) = (text(name), value.is_null(), value.bytes().to_vec());
        host.take_back();
        let mut headers = host.headers(kind).borrow_mut();
        headers.retain(|(known, _)| *known != name);
        if !is_removed {
            headers.push((name, value));
        }
        true
    }
    envoy_dynamic_module_callback_http_add_header(filter: *mut c_void, kind: u32, name: Buffer, value: Buffer) -> bool {
        let host = host(filter);
        let (name, value) = (text(name), value.bytes().to_vec());
        host.take_back();
        host.headers(kind).borrow_mut().push((name, value));
        true
    }
    envoy_dynamic_module_callback_http_send_response(
        filter: *mut c_void, status: u32, fields: *mut [Buffer; 2], count: usize, body: Buffer, details: Buffer
    ) {
        let host = host(filter);
        let fields = std::slice::from_raw_parts(fields, count);
        let headers = fields.iter().map(|[name, value]| (text(*name), text(*value))).collect();
        *host.answered.borrow_mut() = Some((status, headers, text(body), text(details)));
        host.take_back();
    }
    envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void) {
        host(filter).resumed.set(true);
    }
    envoy_dynamic_module_callback_http_filter_reset_stream(filter: *mut c_void, _reason: u32, details: Buffer) {
        *host(filter).ended.borrow_mut() = Some(text(details));
    }
    envoy_dynamic_module_callback_http_clear_route_cache(filter: *mut c_void) {
        host(filter).take_back();
    }
    envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void {
        let host = host(filter);
        host.wakers.set(host.wakers.get() + 1);
        filter
    }
    envoy_dynamic_module_callback_http_filter_scheduler_commit(_scheduler: *mut c_void, _event: u64) {}
    envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void) {
        let host = host(scheduler);
        host.wakers.set(host.wakers.get() - 1);
    }
    envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: *mut c_void, _id: u32, value: *mut Buffer
    ) -> bool {
        *value = host(filter).lend(b"192.0.2.1:4711");
        true
    }
    envoy_dynamic_module_callback_get_most_specific_route_config(_filter: *mut c_void) -> *const c_void {
        ptr::null()
    }
    envoy_dynamic_module_callback_http_set_filter_state_bytes(
        filter: *mut c_void, key: Buffer, value: Buffer
    ) -> bool {
        let host = host(filter);
        host.take_back();
        host.state.borrow_mut().push((text(key), value.bytes().to_vec()));
        true
    }
    envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        filter: *mut c_void, _namespace: Buffer, key: Buffer, value: Buffer
    ) {
        let host = host(filter);
        host.take_back();
        host.state.borrow_mut().push((text(key), value.bytes().to_vec()));
    }
    envoy_dynamic_module_callback_http_set_dynamic_metadata_number(
        filter: *mut c_void, _namespace: Buffer, key: Buffer, value: f64
    ) {
        let host = host(filter);
        host.take_back();
        host.state.borrow_mut().push((text(key), value.to_string().into_bytes()));
    }
    envoy_dynamic_module_callback_http_add_dynamic_metadata_list_string(
        filter: *mut c_void, _namespace: Buffer, key: Buffer, value: Buffer
    ) -> bool {
        let host = host(filter);
        host.take_back();
        host.state.borrow_mut().push((text(key), value.bytes().to_vec()));
        true
    }
    envoy_dynamic_module_callback_log(_level: u32, _text: Buffer) {}
    envoy_dynamic_module_callback_is_validation_mode() -> bool {
        false
    }
}
