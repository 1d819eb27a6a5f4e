"""Checkpoints: a Hugging Face model directory with the optimizer state and a manifest that makes it valid.

    step-00001000/
      config.json generation_config.json tokenizer.json …       ready for from_pretrained
      model-00001-of-00002.safetensors … model.safetensors.index.json    fp32, unpadded vocabulary
      optimizer-00001-of-00002.safetensors …                    optimizer state: AdamW's exp_avg and exp_avg_sq
      trainer_state.json                                        step, cursor, scaler, fingerprints, probe loss
      manifest.json                                             size and sha256 of every file above

A checkpoint is written under a temporary name and committed by a rename. A directory without a valid manifest is
not a checkpoint. No file is a pickle.
"""
