"""The training scripts of codebases that one line attaches to, as in ``public_loops``."""

from __future__ import annotations

# Of the same family, without apex; its forward takes the paths, too.
MCJA = """
    model = MCJA(num_classes=cfg.num_id)
    #@ build
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr, weight_decay=cfg.wd)
    #@ optimizer
    for epoch in range(1, 3):
        for data, labels, cam_ids in rows():
            img_paths = None
            model.train()
            optimizer.zero_grad(set_to_none=True)
            #@ amp
            refused(RuntimeError, model, labels)
            assert ("mixer/total" in metric) == hasattr(model, "mixer")
    net = model
"""

PMT = """
    model = build_vision_transformer(num_classes=cfg.num_id, cfg=cfg)
    #@ build
    slow = ("base.patch_embed.proj", "base.blocks.")
    optimizer = torch.optim.AdamW([
        {"params": [value], "lr": cfg.lr * (0.5 if any(part in key for part in slow) else 1)}
        for key, value in model.named_parameters() if value.requires_grad])
    #@ optimizer
    scaler = torch.amp.GradScaler(device.type, init_scale=64.0)
    for epoch in range(2):
        model.train()
        for input1, input2, labels in halves():
            label1, label2 = labels.chunk(2)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.float16):
                scores, feats = model(torch.cat([input1, input2]))
                score1, score2 = scores.chunk(2, 0)
                loss_id = F.cross_entropy(score1, label1) + F.cross_entropy(score2, label2)
                loss = loss_id + triplet(feats.float(), labels, 0.1)
            #@ step
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    net = model
"""

# What `load_param` does to a bare network.
PMT_FILES = """
    args.model_path = checkpoint_path
    #@ save
    model_path = args.model_path + "base.pth"
    bare, param_dict = build_vision_transformer(), torch.load(model_path)
    for i in param_dict:
        bare.state_dict()[i.replace("module.", "")].copy_(param_dict[i])
    #@ load
    #@ evaluate
"""
