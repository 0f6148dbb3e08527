"""Names of options in other programs, and what replaces them here."""

# A key, or a sentence, and the names that it answers.
ANSWERS = {
    "batch_size": "bs micro_batch_size per_device_train_batch_size train_batch_size",
    "context_length": "block_size max_length max_position_embeddings max_seq_len n_ctx seq_len seq_length",
    "data.image_size": "img_size",
    "model.dim": "d_model embed_dim hidden_size n_embd",
    "model.dropout": "dropout_rate",
    "model.mlp_dim": "d_ff intermediate_size",
    "model.num_heads": "n_head n_heads num_attention_heads",
    "model.num_kv_heads": "n_kv_heads num_key_value_heads",
    "model.num_layers": "depth n_layer n_layers num_hidden_layers",
    "model.patch_size": "patch",
    "model.rope.theta": "rope_base rope_theta",
    "num_steps": "iterations max_iters max_steps steps train_steps",
    "optimizer.clip_norm": "grad_clip max_grad_norm",
    "optimizer.learning_rate": "learning_rate lr max_lr",
    "precision": "amp bf16 dtype fp16",
    "set output_dir and name, for OUTPUT_DIR/NAME": "log_dir logdir out_dir save_dir",
    "set num_steps: a run prints its number of epochs": "epochs max_epochs num_epochs num_train_epochs",
    "set model.rope.scaling.type and model.rope.scaling.factor": "rope_scaling",
    "data= chooses it, such as data=text_files data.path=FILES; see --help": "dataset dataset_name",
    "the same command resumes a run": "resume resume_from resume_from_checkpoint",
    "the same command resumes a run; init_from=RUN starts from its weights": "checkpoint ckpt pretrained",
    "a run uses the GPU that TensorFlow finds; distribute=mirrored uses all": "cuda device devices gpu gpus",
    "`wandb sync RUN/tensorboard` uploads the curves of a run": "report_to wandb",
    "keep_best=true, the default, keeps the checkpoint of lowest validation loss": "early_stopping patience",
}
ANSWER_OF = {name: answer for answer, names in ANSWERS.items() for name in names.split()}


def answer_to(name: str) -> str | None:
    """Sentence about a key or flag of another program, such as `optimizer.lr` or `--resume`, or None."""
    last = name.removeprefix("--").partition("=")[0].replace("-", "_").rpartition(".")[2]
    answer = ANSWER_OF.get(last)
    return f"the key here is {answer}" if answer and " " not in answer else answer
