//! The guardian: has the capabilities, parses nothing from outside, starts and outlives the worker.

mod datapath;
