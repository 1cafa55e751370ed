//! Least privilege: what the functions' roles in `template.yaml` permit, held against what the functions do.
//!
//! The local AWS notes what IAM would be asked because of each call, and by which function's key it was signed. A test
//! with a [`World`](crate::World) fails if one of its functions did what its role does not permit. What AWS itself does
//! in the functions' names (take messages from a queue, write logs, encrypt messages) follows from the template.

pub mod access;
pub mod grant;
pub mod template;
