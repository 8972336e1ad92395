//! The datapath: loads, attaches and detaches the eBPF programs of one pod. The only place that imports aya.
