//! Envoy's binary interface for HTTP filters, as far as it is used, and safe wrappers around it.
//!
//! By `source/extensions/dynamic_modules/abi/abi.h` of Envoy 1.38, 1.39 and 1.40. The bindings are written here
//! because the official SDK is not published as a crate; once it is, and builds without libclang, it replaces this
//! file.
//!
//! Buffers that Envoy returns live until the hook ends or a setter is called. So every getter borrows the [`Stream`],
//! and every setter borrows it mutably.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// `envoy_dynamic_module_type_envoy_buffer` and `…_module_buffer`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Buffer {
    pointer: *const u8,
    length: usize,
}

impl Buffer {
    const NONE: Self = Self { pointer: ptr::null(), length: 0 };

    pub(crate) const fn new(bytes: &[u8]) -> Self {
        Self { pointer: bytes.as_ptr(), length: bytes.len() }
    }

    #[cfg(test)]
    pub fn is_null(self) -> bool {
        self.pointer.is_null()
    }

    /// # Safety
    ///
    /// The buffer must live for `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.pointer.is_null() {
            return &[];
        }
        // SAFETY: Envoy gives the pointer with its length, and the caller guarantees the lifetime.
        unsafe { std::slice::from_raw_parts(self.pointer, self.length) }
    }
}

/// `envoy_dynamic_module_type_envoy_http_header` and `…_module_http_header`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Field {
    name: Buffer,
    value: Buffer,
}

/// `envoy_dynamic_module_type_http_header_type`
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Headers {
    Request = 0,
    Response = 2,
}

/// `envoy_dynamic_module_type_on_http_filter_request_headers_status`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Status {
    Continue = 0,
    StopIteration = 1,
    StopAllIterationAndWatermark = 4,
}

/// `envoy_dynamic_module_type_log_level_Error`
const ERROR: u32 = 4;
/// `envoy_dynamic_module_type_attribute_id_SourceAddress`
const SOURCE_ADDRESS: u32 = 24;
/// `envoy_dynamic_module_type_http_filter_stream_reset_reason_LocalReset`
const LOCAL_RESET: u32 = 0;

mod callback {
    use super::{Buffer, Field, c_char, c_void};

    #[rustfmt::skip]
    unsafe extern "C" {
        #[link_name = "envoy_dynamic_module_callback_http_get_headers_size"]
        pub fn headers_size(filter: *mut c_void, kind: u32) -> usize;
        #[link_name = "envoy_dynamic_module_callback_http_get_headers"]
        pub fn headers(filter: *mut c_void, kind: u32, fields: *mut Field) -> bool;
        #[link_name = "envoy_dynamic_module_callback_http_get_header"]
        pub fn header(filter: *mut c_void, kind: u32, name: Buffer, value: *mut Buffer, index: usize, count: *mut usize) -> bool;
        #[link_name = "envoy_dynamic_module_callback_http_set_header"]
        pub fn set_header(filter: *mut c_void, kind: u32, name: Buffer, value: Buffer) -> bool;
        #[link_name = "envoy_dynamic_module_callback_http_add_header"]
        pub fn add_header(filter: *mut c_void, kind: u32, name: Buffer, value: Buffer) -> bool;
        #[link_name = "envoy_dynamic_module_callback_http_send_response"]
        pub fn send_response(filter: *mut c_void, status: u32, fields: *mut Field, count: usize, body: Buffer, details: Buffer);
        #[link_name = "envoy_dynamic_module_callback_http_filter_continue_decoding"]
        pub fn continue_decoding(filter: *mut c_void);
        #[link_name = "envoy_dynamic_module_callback_http_filter_reset_stream"]
        pub fn reset_stream(filter: *mut c_void, reason: u32, details: Buffer);
        #[link_name = "envoy_dynamic_module_callback_http_clear_route_cache"]
        pub fn clear_route_cache(filter: *mut c_void);
        #[link_name = "envoy_dynamic_module_callback_http_filter_scheduler_new"]
        pub fn scheduler_new(filter: *mut c_void) -> *mut c_void;
        #[link_name = "envoy_dynamic_module_callback_http_filter_scheduler_commit"]
        pub fn scheduler_commit(scheduler: *mut c_void, event: u64);
        #[link_name = "envoy_dynamic_module_callback_http_filter_scheduler_delete"]
        pub fn scheduler_delete(scheduler: *mut c_void);
        #[link_name = "envoy_dynamic_module_callback_http_filter_get_attribute_string"]
        pub fn attribute(filter: *mut c_void, id: u32, value: *mut Buffer) -> bool;
        #[link_name = "envoy_dynamic_module_callback_get_most_specific_route_config"]
        pub fn route_config(filter: *mut c_void) -> *const c_void;
        #[link_name = "envoy_dynamic_module_callback_http_set_filter_state_bytes"]
        pub fn set_filter_state(filter: *mut c_void, key: Buffer, value: Buffer) -> bool;
        #[link_name = "envoy_dynamic_module_callback_http_set_dynamic_metadata_string"]
        pub fn set_metadata_string(filter: *mut c_void, namespace: Buffer, key: Buffer, value: Buffer);
        #[link_name = "envoy_dynamic_module_callback_http_set_dynamic_metadata_number"]
        pub fn set_metadata_number(filter: *mut c_void, namespace: Buffer, key: Buffer, value: f64);
        #[link_name = "envoy_dynamic_module_callback_http_add_dynamic_metadata_list_string"]
        pub fn add_metadata_list_string(filter: *mut c_void, namespace: Buffer, key: Buffer, value: Buffer) -> bool;
        #[link_name = "envoy_dynamic_module_callback_log"]
        pub fn log(level: u32, text: Buffer);
        #[link_name = "envoy_dynamic_module_callback_is_validation_mode"]
        pub fn is_validation_mode() -> bool;

        pub fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }
}

/// A stream of Envoy's, in one of its hooks.
pub struct Stream<'a> {
    filter: NonNull<c_void>,
    hook: PhantomData<&'a mut c_void>,
}

impl<'a> Stream<'a> {
    /// # Safety
    ///
    /// `filter` must be the filter that Envoy passed to the hook that runs, and `'a` must end with the hook.
    pub unsafe fn new(filter: *mut c_void) -> Option<Self> {
        NonNull::new(filter).map(|filter| Self { filter, hook: PhantomData })
    }

    const fn filter(&self) -> *mut c_void {
        self.filter.as_ptr()
    }

    /// The fields of the request, including pseudo-header fields; a repeated field is listed once for each value; at
    /// most `most`.
    pub fn headers(&self, most: usize) -> Result<Vec<(&str, &[u8])>, Unreadable> {
        // SAFETY: the filter is valid in its hook.
        let count = unsafe { callback::headers_size(self.filter(), Headers::Request as u32) };
        if count > most {
            return Err(Unreadable::TooMany);
        }
        let mut fields = Vec::<Field>::with_capacity(count);
        // SAFETY: as above; the buffer has room for the number that Envoy returned.
        let read = unsafe { callback::headers(self.filter(), Headers::Request as u32, fields.as_mut_ptr()) };
        if !read {
            return Err(Unreadable::Missing);
        }
        // SAFETY: Envoy has written that number.
        unsafe { fields.set_len(count) };
        let field = |field: Field| {
            // SAFETY: the buffers live until a setter is called, which needs the stream mutably.
            let (name, value) = unsafe { (field.name.bytes(), field.value.bytes()) };
            Ok((text(name).ok_or(Unreadable::Name)?, value))
        };
        fields.into_iter().map(field).collect()
    }

    /// The first field of a name.
    pub fn header(&self, kind: Headers, name: &str) -> Option<&[u8]> {
        let (mut value, mut count) = (Buffer::NONE, 0);
        let name = Buffer::new(name.as_bytes());
        // SAFETY: the filter is valid in its hook; Envoy writes to both places before it returns.
        let found = unsafe { callback::header(self.filter(), kind as u32, name, &raw mut value, 0, &raw mut count) };
        // SAFETY: the buffer lives until a setter is called, which needs the stream mutably.
        found.then(|| unsafe { value.bytes() })
    }

    /// The client's address, with its port since Envoy 1.40.
    pub fn source_address(&self) -> Option<&[u8]> {
        let mut value = Buffer::NONE;
        // SAFETY: the filter is valid in its hook; Envoy writes to the place before it returns.
        let found = unsafe { callback::attribute(self.filter(), SOURCE_ADDRESS, &raw mut value) };
        // SAFETY: the buffer lives until a setter is called, which needs the stream mutably.
        found.then(|| unsafe { value.bytes() })
    }

    /// The object that [`crate::hooks`] created for the stream's route.
    ///
    /// # Safety
    ///
    /// Every per-route object of this library must be a `T`. The object lives as long as its route, which the stream
    /// holds until its hook ends or the route cache is cleared.
    pub unsafe fn route_config<T>(&self) -> Option<&'a T> {
        // SAFETY: the filter is valid in its hook; the caller guarantees the type.
        unsafe { callback::route_config(self.filter()).cast::<T>().as_ref() }
    }

    /// Replaces all fields of a name by one, or removes them.
    pub fn set_header(&mut self, kind: Headers, name: &[u8], value: Option<&[u8]>) {
        let value = value.map_or(Buffer::NONE, Buffer::new);
        // SAFETY: the filter is valid in its hook; Envoy copies name and value.
        unsafe { callback::set_header(self.filter(), kind as u32, Buffer::new(name), value) };
    }

    /// Adds a field of the request, which has none of this name. Unlike [`Self::set_header`], Envoy searches for no
    /// other one.
    pub fn add_header(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (Buffer::new(name), Buffer::new(value));
        // SAFETY: the filter is valid in its hook; Envoy copies name and value.
        unsafe { callback::add_header(self.filter(), Headers::Request as u32, name, value) };
    }

    pub fn clear_route_cache(&mut self) {
        // SAFETY: the filter is valid in its hook.
        unsafe { callback::clear_route_cache(self.filter()) };
    }

    pub fn set_filter_state(&mut self, key: &str, value: &[u8]) {
        // SAFETY: the filter is valid in its hook; Envoy copies key and value.
        unsafe { callback::set_filter_state(self.filter(), Buffer::new(key.as_bytes()), Buffer::new(value)) };
    }

    pub fn set_metadata_text(&mut self, namespace: &str, key: &str, value: &str) {
        let [namespace, key, value] = [namespace, key, value].map(|text| Buffer::new(text.as_bytes()));
        // SAFETY: the filter is valid in its hook; Envoy copies the texts.
        unsafe { callback::set_metadata_string(self.filter(), namespace, key, value) };
    }

    pub fn set_metadata_number(&mut self, namespace: &str, key: &str, value: f64) {
        let [namespace, key] = [namespace, key].map(|text| Buffer::new(text.as_bytes()));
        // SAFETY: the filter is valid in its hook; Envoy copies the texts.
        unsafe { callback::set_metadata_number(self.filter(), namespace, key, value) };
    }

    pub fn add_metadata_text(&mut self, namespace: &str, key: &str, value: &str) {
        let [namespace, key, value] = [namespace, key, value].map(|text| Buffer::new(text.as_bytes()));
        // SAFETY: the filter is valid in its hook; Envoy copies the texts.
        unsafe { callback::add_metadata_list_string(self.filter(), namespace, key, value) };
    }

    /// Sets the fields of a serialized `google.protobuf.Struct`.
    pub fn set_metadata(&mut self, setter: MetadataSetter, namespace: &str, fields: &[u8]) {
        // SAFETY: the filter is valid in its hook; Envoy copies namespace and fields.
        unsafe { (setter.0)(self.filter(), Buffer::new(namespace.as_bytes()), Buffer::new(fields)) };
    }

    /// The waker of this stream for other threads.
    pub fn waker(&self) -> Option<Waker> {
        // SAFETY: the filter is valid in its hook.
        NonNull::new(unsafe { callback::scheduler_new(self.filter()) }).map(Waker)
    }

    /// Sends a response to the client. Envoy calls other hooks of the same filter meanwhile.
    pub fn respond(self, status: u16, headers: &[(&str, &str)], body: &str, details: &str) {
        let field = |(name, value): &(&str, &str)| Field {
            name: Buffer::new(name.as_bytes()),
            value: Buffer::new(value.as_bytes()),
        };
        let mut fields: Vec<_> = headers.iter().map(field).collect();
        let [body, details] = [body, details].map(|text| Buffer::new(text.as_bytes()));
        let (filter, status) = (self.filter(), u32::from(status));
        // SAFETY: the filter is valid in its hook, and not used after; Envoy copies everything and changes no field.
        unsafe { callback::send_response(filter, status, fields.as_mut_ptr(), fields.len(), body, details) };
    }

    /// Continues a stopped request.
    pub fn resume(self) {
        // SAFETY: the filter is valid in its hook, and not used after.
        unsafe { callback::continue_decoding(self.filter()) };
    }

    /// Ends the stream for client and upstream.
    pub fn end(self, details: &str) {
        // SAFETY: the filter is valid in its hook, and not used after; Envoy copies the details.
        unsafe { callback::reset_stream(self.filter(), LOCAL_RESET, Buffer::new(details.as_bytes())) };
    }
}

/// A name or a part of the request line: nearly always ASCII, which is found out much faster than UTF-8.
pub fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    std::str::from_utf8(bytes).ok()
}

/// Why the fields of a request cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreadable {
    TooMany,
    Missing,
    /// A name is not UTF-8.
    Name,
}

/// Wakes a stream from any thread; it must be gone before the stream's worker is: Envoy's scheduler holds the
/// worker's dispatcher by plain reference.
pub struct Waker(NonNull<c_void>);

// SAFETY: Envoy's scheduler object is made for use from any thread: it holds the filter weakly.
unsafe impl Send for Waker {}

impl crate::slot::Wake for Waker {
    fn wake(&self) {
        // SAFETY: this value owns the scheduler until it is dropped, and the worker is alive.
        unsafe { callback::scheduler_commit(self.0.as_ptr(), 0) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: this value owns the scheduler, and does not use it afterwards.
        unsafe { callback::scheduler_delete(self.0.as_ptr()) };
    }
}

/// `envoy_dynamic_module_callback_http_set_dynamic_metadata_struct`, which Envoy has since 1.40.
#[derive(Clone, Copy)]
pub struct MetadataSetter(SetMetadata);

type SetMetadata = unsafe extern "C" fn(*mut c_void, Buffer, Buffer) -> bool;

impl MetadataSetter {
    /// `None`: Envoy is older.
    pub fn find() -> Option<Self> {
        const NAME: &CStr = c"envoy_dynamic_module_callback_http_set_dynamic_metadata_struct";
        // SAFETY: the name is a C string; null is `RTLD_DEFAULT`, the symbols of the process.
        let found = unsafe { callback::dlsym(ptr::null_mut(), NAME.as_ptr()) };
        // SAFETY: it is that function, of this type.
        NonNull::new(found)
            .map(|found| Self(unsafe { std::mem::transmute::<*mut c_void, SetMetadata>(found.as_ptr()) }))
    }
}

/// Writes a line into Envoy's log.
pub fn log_error(text: &str) {
    // SAFETY: Envoy copies the text.
    unsafe { callback::log(ERROR, Buffer::new(text.as_bytes())) };
}

/// Whether Envoy only validates its configuration (`--mode validate`).
pub fn is_validation_mode() -> bool {
    // SAFETY: it takes nothing.
    unsafe { callback::is_validation_mode() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::slot::{Slot, Wake};

    /// Under Miri as well: every getter and setter, with a host that overwrites and frees its buffers at each setter.
    #[test]
    fn what_is_read_lives_until_a_setter_and_what_is_set_is_copied() {
        let host = Host::new(&[(":path", "/orders"), ("x-user-id", "root"), ("x-empty", "")]);
        let mut stream = host.stream();
        let fields: Vec<_> =
            stream.headers(8).unwrap().into_iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        assert_eq!(fields[2], ("x-empty".to_owned(), Vec::new()));
        assert_eq!(stream.headers(2).unwrap_err(), Unreadable::TooMany);
        assert_eq!(stream.header(Headers::Request, "x-user-id"), Some(&b"root"[..]));
        assert_eq!(stream.header(Headers::Request, "x-other"), None);
        assert_eq!(stream.source_address(), Some(&b"192.0.2.1:4711"[..]));
        // SAFETY: the host has no per-route object.
        assert!(unsafe { stream.route_config::<u8>() }.is_none());
        for (name, value) in &fields[1..] {
            stream.set_header(Headers::Request, name.as_bytes(), Some(value));
        }
        stream.set_header(Headers::Request, b"x-user-id", None);
        stream.add_header(b"x-added", b"yes");
        assert_eq!(stream.header(Headers::Request, "x-added"), Some(&b"yes"[..]));
        stream.set_filter_state("doorward", b"{}");
        stream.set_metadata_text("doorward", "rule", "health");
        stream.set_metadata_number("doorward", "expires_at", 7.0);
        stream.add_metadata_text("doorward", "scopes", "read");
        stream.clear_route_cache();
        assert_eq!(host.header("x-user-id"), None);
        assert_eq!(host.state.borrow().len(), 4);
        let slot = Slot::new(stream.waker().unwrap());
        slot.put("answer");
        assert_eq!(slot.take(), Some("answer"));
        stream.waker().unwrap().wake();
        assert_eq!(host.wakers.get(), 1);
        slot.leave();
        assert_eq!(host.wakers.get(), 0);
        stream.respond(401, &[("www-authenticate", "Bearer")], "{}", "doorward_missing_token");
        assert_eq!(host.answered.borrow().as_ref().unwrap().0, 401);
        host.stream().end("doorward_stream_signed_out");
        host.stream().resume();
        assert!(host.resumed.get());
    }
}
