//! How the allocator gives memory back.

/// Has large blocks be given back to the system as soon as they are freed. As it is set up, the allocator takes the first large
/// block that was freed as a sign that more will come, and keeps as much for each thread: a process that holds bodies for a moment
/// would keep their memory for good. To be called before threads are started.
pub fn give_back_large_blocks() {
    /// What is a large block. Unit: bytes.
    #[cfg(target_env = "gnu")]
    const LARGE: i32 = 256 << 10;
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number, and no other thread allocates yet.
        unsafe { libc::mallopt(parameter, LARGE) };
    }
}
